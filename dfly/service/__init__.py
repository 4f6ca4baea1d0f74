"""Floor 4: the roles. Each drives machines of core/ with the adapters of floor 3."""
