"""The second driver of core/: the production scheduler over virtual hosts, links and faults.

world.py is time, network.py moves bytes, swarm.py plays manager and hosts, checkers.py says what
must hold, scenario.py sets one run up and measures it. One seed gives one run, to the byte.
"""
