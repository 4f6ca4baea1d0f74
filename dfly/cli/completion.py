"""Print a script that completes dfly's commands and options in a shell.

The script is written from the table of commands and from what each command tells its parser, which
is what --help prints: no list of options stands here. Where options take one of a few words that
others than the parser read, the command's module lists those as VALUES beside its options.
`words_of` turns that into Words, the same for all shells; the rest says it in three languages. A
script is text that a shell will run, so every name and text goes into it in single quotes, by the
shell's own rules.
"""
from __future__ import annotations

from dfly import __version__
from dfly.cli.parser import HIDDEN, Arguments, CommandParser

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

FILES = ("FILE", "PATH")  # metavars whose values are names of files
FOLDERS = ("DIR",)


# ------------------------------------------------------------------------------ what there is
class Word:
    """An option by all its names, or an argument (without names), of one command."""

    def __init__(self, names: Tuple[str, ...], about: Dict[str, Any],
                 values: Optional[Mapping[str, Tuple[str, ...]]] = None) -> None:
        """`values`: the words that options take which the parser leaves to others to read."""
        self.names = tuple(name for name in names if name.startswith("-"))
        self.help = " ".join(str(about.get("help") or "").replace("%%", "%").split())
        self.hidden = self.help is HIDDEN
        self.takes_value = about.get("action", "store") in ("store", "append") \
            and about.get("nargs") != 0
        self.repeats = about.get("action") in ("append", "count")
        self.metavar = str(about.get("metavar") or "")
        listed = [found for name in self.names for found in (values or {}).get(name, ())]
        self.choices = tuple(map(str, about.get("choices") or listed))

    def __repr__(self) -> str:
        return f"Word({vars(self)!r})"

    @property
    def kind(self) -> str:
        """What its value is: 'files', 'folders', 'choices' or '' for what only people know."""
        if self.choices:
            return "choices"
        metavar = self.metavar.rstrip(".").split(":")[0]
        return "files" if metavar in FILES else "folders" if metavar in FOLDERS else ""


HELP = Word(("-h", "--help"), {"action": "help", "help": "print the options and leave"})
ABOUT_DFLY = (Word(("-h", "--help"), {"action": "help", "help": "print the commands and leave"}),
              Word(("-V", "--version"), {"action": "version",
                                         "help": "print the version and leave"}))


def values_of(module: object) -> Mapping[str, Tuple[str, ...]]:
    """{option: the words it takes} of the module of a command."""
    found: Mapping[str, Tuple[str, ...]] = getattr(module, "VALUES", {})
    return found


def words_of(parser: CommandParser,
             values: Optional[Mapping[str, Tuple[str, ...]]] = None) -> List[Word]:
    """All options and arguments of one command, --help included."""
    words = [HELP, *(Word(names, about, values) for names, about in parser.notes())]
    return [word for word in words if not word.hidden]


def commands() -> Dict[str, Tuple[str, List[Word]]]:
    """{command: (summary, its words)}; `help` is one, too."""
    from dfly.cli import COMMANDS, parser_for
    found = {}
    for name, command in COMMANDS.items():
        module, parser = parser_for(name)
        found[name] = (command.summary, words_of(parser, values_of(module)))
    found["help"] = ("print the commands, or the options of one",
                     [Word(("command",), {"choices": tuple(COMMANDS), "metavar": "COMMAND"})])
    return found


def options_of(words: Iterable[Word]) -> List[Word]:
    return [word for word in words if word.names]


def arguments_of(words: Iterable[Word]) -> List[Word]:
    return [word for word in words if not word.names]


def quoted(text: str) -> str:
    """`text` as one word of bash and zsh: nothing between single quotes is theirs."""
    return "'" + text.replace("'", "'\\''") + "'"


def fish_quoted(text: str) -> str:
    """`text` as one word of fish, which knows two escapes between single quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _opening(shell: str) -> str:
    return f"# Completes the words of dfly {__version__} in {shell}; by: dfly completion {shell}"


# ------------------------------------------------------------------------------ bash
# Readline splits words at = and :, so --output=x is three words. It knows no descriptions: they
# are shown by offering them with the names where it will only list what fits, never insert it.
BASH_TAIL = r"""
_dfly_offer() {  # of pairs of a word and what it is, those that the current word begins
    local -a found=()
    local widest=0 pair room=$(( ${COLUMNS:-80} - 4 ))
    while (( $# )); do
        if [[ $1 == "$word"* ]]; then
            found+=("$1" "$2")
            (( ${#1} > widest )) && widest=${#1}
        fi
        shift 2
    done
    for (( pair = 0; pair < ${#found[@]}; pair += 2 )); do
        local line=${found[pair]}
        if (( ${#found[@]} > 2 )) && [[ ${COMP_TYPE:-} == 63 && ${found[pair + 1]} ]]; then
            printf -v line '%-*s  (%s' "$widest" "$line" "${found[pair + 1]}"
            (( ${#line} < room )) || line=${line:0:room - 3}...
            line+=')'
        fi
        COMPREPLY+=("$line")
    done
}

_dfly_paths() {  # -f files, -d folders
    compopt -o filenames 2>/dev/null
    local path
    while IFS= read -r path; do
        COMPREPLY+=("$path")
    done < <(compgen "$1" -- "$word")
}

_dfly_value() {
    case $1 in
    files) _dfly_paths -f ;;
    folders) _dfly_paths -d ;;
    choices) _dfly_offer "${choices[@]}" ;;
    esac
}

_dfly_place() {  # how many arguments stand before the cursor
    local at
    place=0
    for (( at = 2; at < COMP_CWORD; at++ )); do
        if [[ $valued == *" ${COMP_WORDS[at]} "* ]]; then
            (( at++ ))
            [[ ${COMP_WORDS[at]} == = ]] && (( at++ ))
        elif [[ ${COMP_WORDS[at]} != -?* ]]; then
            (( place++ ))
        fi
    done
}

_dfly() {
    local word=$2 before=${COMP_WORDS[COMP_CWORD - 1]}
    local valued=' ' place kind=
    local -a options=() choices=()
    COMPREPLY=()
    if [[ ${COMP_WORDS[COMP_CWORD]} == = ]]; then
        word=
    elif [[ $before == = ]] && (( COMP_CWORD > 2 )); then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if (( COMP_CWORD == 1 )); then
        _dfly_commands
    else
        _dfly_command "${COMP_WORDS[1]}"
    fi
}

complete -F _dfly dfly
"""


def bash_script() -> str:
    found = commands()
    lines = [_opening("bash"), "",
             "_dfly_commands() {", "    _dfly_offer \\"]
    for name, (summary, _) in found.items():
        lines.append(f"        {quoted(name)} {quoted(summary)} \\")
    lines += [*_bash_pairs(ABOUT_DFLY), "}", "", "_dfly_command() {", "    case $1 in"]
    for name, (_, words) in found.items():
        lines += [f"    {name})", *_bash_command(words), "        ;;"]
    lines += ["    esac", "}"]
    return "\n".join(lines) + "\n" + BASH_TAIL


def _bash_pairs(options: Iterable[Word]) -> List[str]:
    """An argument list of names and texts; the last line ends without a backslash."""
    lines = [f"        {quoted(name)} {quoted(option.help)} \\"
             for option in options for name in option.names]
    return [*lines[:-1], lines[-1][:-2]]


def _bash_command(words: List[Word]) -> List[str]:
    options, lines = options_of(words), []
    valued = [option for option in options if option.takes_value]
    if valued:
        names = " ".join(name for option in valued for name in option.names)
        lines += [f"        valued={quoted(f' {names} ')}", "        case $before in"]
        for option in valued:
            lines += [f"        {'|'.join(map(quoted, option.names))})", *_bash_value(option),
                      "            return ;;"]
        lines.append("        esac")
    if options:
        lines += ["        if [[ $word == -* ]]; then", "        _dfly_offer \\",
                  *_bash_pairs(options), "        return", "        fi"]
    places = arguments_of(words)
    if places:
        lines += ["        _dfly_place", "        case $place in"]
        for number, argument in enumerate(places):
            pattern = "*" if number == len(places) - 1 and number else str(number)
            lines += [f"        {pattern})", *_bash_value(argument), "            ;;"]
        lines.append("        esac")
    return lines


def _bash_value(word: Word) -> List[str]:
    if word.kind == "choices":
        pairs = " ".join(f"{quoted(choice)} ''" for choice in word.choices)
        return [f"            choices=({pairs})", "            _dfly_value choices"]
    return [f"            _dfly_value {word.kind}"] if word.kind else ["            :"]


# ------------------------------------------------------------------------------ zsh
def zsh_script() -> str:
    found = commands()
    lines = ["#compdef dfly",
             _opening("zsh"), "",
             "_dfly() {", "    local -a commands", "    local command=$words[2] failed=1",
             "    if (( CURRENT == 2 )); then",
             "        commands=("]
    lines += [f"            {quoted(_zsh_escaped(name) + ':' + _zsh_escaped(summary))}"
              for name, (summary, _) in found.items()]
    lines += ["        )", "        _describe -t commands command commands && failed=0",
              "        _arguments \\", *_zsh_specs(ABOUT_DFLY), "        return failed", "    fi",
              "    shift words", "    (( CURRENT-- ))", "    case $command in"]
    for name, (_, words) in found.items():
        lines += [f"    {name})", "        _arguments \\", *_zsh_specs(words), "        ;;"]
    lines += ["    esac", "    return failed", "}", "",
              "if [[ ${funcstack[1]} == _dfly ]]; then  # loaded from a file in $fpath",
              '    _dfly "$@"', "else", "    compdef _dfly dfly", "fi", ""]
    return "\n".join(lines)


def _zsh_escaped(text: str) -> str:
    """For the places where _arguments and _describe look for their own colons and brackets."""
    for character in "\\:[]":
        text = text.replace(character, "\\" + character)
    return text


def _zsh_specs(words: Iterable[Word]) -> List[str]:
    """What _arguments is told: one specification a line; its success is _dfly's."""
    words = list(words)
    specs = [spec for option in options_of(words) for spec in _zsh_option(option)]
    places = arguments_of(words)
    for number, argument in enumerate(places, 1):
        many = number == len(places) and not (argument.choices and number == 1)
        specs.append(f"{'*' if many else number}:{_zsh_value(argument)}")
    return [*(f"            {quoted(spec)} \\" for spec in specs), "            && failed=0"]


def _zsh_option(option: Word) -> List[str]:
    """One specification a name: an option that came isn't offered again by its other names."""
    head = "*" if option.repeats else f"({' '.join(option.names)})"
    specs = []
    for name in option.names:
        joint = "" if not option.takes_value else "=" if name.startswith("--") else "+"
        value = f":{_zsh_value(option)}" if option.takes_value else ""
        specs.append(f"{head}{name}{joint}[{_zsh_escaped(option.help)}]{value}")
    return specs


def _zsh_value(word: Word) -> str:
    """message:action; an empty list and not _arguments' blank, which would show the message and
    keep an option that is whole but for its end from being inserted."""
    actions = {"files": "_files", "folders": "_files -/",
               "choices": f"({' '.join(map(_zsh_escaped, word.choices))})"}
    return f"{_zsh_escaped(word.metavar or 'value')}:{actions.get(word.kind, '()')}"


# ------------------------------------------------------------------------------ fish
FISH_HEAD = r"""
function __dfly_in  # the command is this one
    set -l words (commandline -opc)
    test (count $words) -gt 1; and test $words[2] = $argv[1]
end

function __dfly_first  # no command yet
    test (count (commandline -opc)) -eq 1
end

function __dfly_without  # in this command, and none of these words came yet
    __dfly_in $argv[1]; or return 1
    set -l words (commandline -opc)
    for word in $words[3..-1]
        contains -- $word $argv[2..-1]; and return 1
    end
    return 0
end

complete -c dfly -e
complete -c dfly -f
"""


def fish_script() -> str:
    found = commands()
    lines = [f"complete -c dfly -n __dfly_first -a {fish_quoted(name)} -d {fish_quoted(summary)}"
             for name, (summary, _) in found.items()]
    lines += [_fish_option("__dfly_first", option) for option in ABOUT_DFLY]
    for name, (_, words) in found.items():
        lines.append("")
        lines += [_fish_option(f"__dfly_in {name}", option) for option in options_of(words)]
        lines += [_fish_argument(name, argument) for argument in arguments_of(words)
                  if argument.kind]
    return (_opening("fish") + "\n" + FISH_HEAD + "\n" + "\n".join(lines) + "\n")


def _fish_option(condition: str, option: Word) -> str:
    words = ["complete -c dfly -n", fish_quoted(condition)]
    for name in option.names:
        kind = "-l" if name.startswith("--") else "-s" if len(name) == 2 else "-o"
        words += [kind, fish_quoted(name.lstrip("-"))]
    if option.takes_value:
        words.append(_fish_value(option))
    return " ".join([*words, "-d", fish_quoted(option.help)])


def _fish_value(word: Word) -> str:
    return {"files": "-r -F", "folders": "-x -a '(__fish_complete_directories)'",
            "choices": f"-x -a {fish_quoted(' '.join(word.choices))}"}.get(word.kind, "-x")


def _fish_argument(command: str, argument: Word) -> str:
    if argument.kind == "choices":
        condition = f"__dfly_without {command} {' '.join(argument.choices)}"
        return (f"complete -c dfly -n {fish_quoted(condition)} "
                f"-a {fish_quoted(' '.join(argument.choices))}")
    value = {"files": "-F", "folders": "-a '(__fish_complete_directories)'"}[argument.kind]
    return f"complete -c dfly -n {fish_quoted(f'__dfly_in {command}')} {value}"


# ------------------------------------------------------------------------------ the command
SHELLS: Dict[str, Callable[[], str]] = {"bash": bash_script, "zsh": zsh_script,
                                        "fish": fish_script}


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("shell", choices=tuple(SHELLS), metavar="SHELL",
                        help="bash, zsh or fish")


def run(args: Arguments) -> int:
    print(SHELLS[args.shell](), end="")
    return 0
