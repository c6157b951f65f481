"""Strict YAML: the types of YAML 1.2, and a fault for values that programs read differently."""

import re
from pathlib import Path

import yaml

from .words import Fault, lines, shown

INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)", re.I)
AMBIGUOUS = re.compile(  # yes; 0200 (octal); 0x1f; 1_000; 1:30 (base 60)
    r"yes|no|on|off|[-+]?0[0-9_]+|[-+]?0[xob][0-9a-f_]+|[-+]?[0-9][0-9_]*_[0-9_.]*"
    r"|[-+]?[0-9]+(:[0-9]+)+(\.[0-9]*)?",
    re.I,
)

TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str")}


def read(path: Path) -> dict:
    """Return what a YAML file holds; ValueError with all that is wrong with its YAML."""
    settings, faults = parsed(path, str(path))
    if faults:
        raise ValueError("\n".join(lines(str(path), faults)))
    return settings


def parsed(path: Path, file: str) -> tuple[dict, list[Fault]]:
    """Settings of a file and the faults of its YAML; ValueError of one line if it is not readable.

    file: the name of the file in the message.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        faults: list[Fault] = []
        settings = _value(node, (), faults, set()) if node else None
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: byte {error.start} is not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        problem = " ".join(f"{error.context or ''} {error.problem}".split())
        raise ValueError(f"{file}:{error.problem_mark.line + 1}: {problem}") from None
    except yaml.YAMLError:
        raise ValueError(f"{file}: has a character that YAML does not allow") from None
    except RecursionError:
        raise ValueError(f"{file}: is nested too deeply") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{file}: got {shown(settings)}, wanted a mapping (key: value)")
    return settings, faults


def _value(node: yaml.Node, keys: tuple, faults: list[Fault], seen: set[int]) -> object:
    """The value of a node at `keys`; faults are added to `faults`; seen: ids of nodes so far."""
    if id(node) in seen:
        faults.append((keys, "aliases (*name) are not supported; write the value out"))
        return None
    seen.add(id(node))
    if node.tag not in TAGS:
        faults.append((keys, f"the tag {shown(node.tag)} is not supported; write a plain value"))
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, keys, faults)
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*keys, i), faults, seen) for i, child in enumerate(node.value)]
    result: dict[str, object] = {}
    lines: dict[str, int] = {}
    for key_node, child in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            faults.append((keys, f"line {line}: a key must be text, got a list or a mapping"))
            continue
        here = (*keys, key)
        if not isinstance(_scalar(key_node, here, faults), str):
            words = f"a key must be text, got {shown(key)}; choose a name or put it in quotes"
            faults.append((here, words))
        if key in result:
            faults.append((here, f"given twice, in lines {lines[key]} and {line}; keep one"))
        result[key], lines[key] = _value(child, here, faults, seen), line
    return result


def _scalar(node: yaml.ScalarNode, keys: tuple, faults: list[Fault]) -> object:
    text = node.value
    if node.style is not None:  # in quotes, or a block
        return text
    if AMBIGUOUS.fullmatch(text):
        plain = "true or false" if text.isalpha() else "a plain decimal number"
        words = f"{shown(text)} means different things to different programs; write {plain}"
        faults.append((keys, f"{words}, or put text in quotes"))
    elif text.lower() in ("", "~", "null"):
        return None
    elif text.lower() in ("true", "false"):
        return text.lower() == "true"
    elif FLOAT.fullmatch(text):
        return number(text)
    return text


def number(text: str) -> int | float:
    """The number of a text that FLOAT matches."""
    if INTEGER.fullmatch(text) and len(text) < 1000:  # Python refuses more than 4300 digits
        return int(text)
    return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
