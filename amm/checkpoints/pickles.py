"""Reader of the pickles of `torch.save`, that runs none of what they ask for.

A pickle is a program: it names functions and calls them. Here a machine of the few instructions
that a state dict needs goes through it, and writes each call down instead of making it. What comes
out are dictionaries, lists, tuples, numbers and texts, and records of names and calls.
"""

from __future__ import annotations

import pickletools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

INSTRUCTIONS_LIMIT = 2**23
"""A sharded model with 40 000 tensors has less than half as many; they take about ten seconds."""


class RefusedPickle(Exception):
    """A pickle with an instruction or a name that a state dict doesn't need; its text is which."""


@dataclass(frozen=True)
class Name:
    """A class, function or dtype that the pickle names, such as `torch.Size`."""

    name: str


@dataclass(frozen=True)
class Stored:
    """The storage of a tensor: the tuple by which torch.save points to one."""

    identity: Any


@dataclass(eq=False)
class Called:
    """A call, or an object of a class.

    Attributes:
        name: what is called.
        arguments: with what.
        state: what the object's state was set to; None without.
    """

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


def read_pickle(content: bytes, allowed: Collection[str]) -> Any:
    """What a pickle holds.

    Args:
        content: the pickle.
        allowed: the names that it may have.

    Returns:
        Its object, made of the types above and of Python's plain ones. `collections.OrderedDict`
        is a dict. It may contain itself, and be as deep as it likes.

    Raises:
        RefusedPickle: it has another name or instruction, or too many.
        Exception: of any kind, if it is damaged.
    """
    stack: list[Any] = []
    outer: list[list[Any]] = []
    memo: dict[object, Any] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if count > INSTRUCTIONS_LIMIT:
            raise RefusedPickle(f"more than {INSTRUCTIONS_LIMIT:,} instructions")
        match opcode.name:
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"TUPLE": (), "LIST": [], "DICT": {}}[opcode.name[6:]])
            case "MARK":
                outer.append(stack)
                stack = []
            case "TUPLE":
                items, stack = stack, outer.pop()
                stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode.name[-1]))]
                stack.append(tuple(reversed(items)))
            case "APPEND":
                value = stack.pop()
                _extend(stack[-1], [value])
            case "APPENDS":
                items, stack = stack, outer.pop()
                _extend(stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set(stack[-1], [key, value])
            case "SETITEMS":
                items, stack = stack, outer.pop()
                _set(stack[-1], items)
            case "GLOBAL":
                stack.append(_name(str(argument), allowed))
            case "BINPERSID":
                stack.append(Stored(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            case "BUILD":
                state = stack.pop()
                if type(stack[-1]) is Called and stack[-1].state is None:
                    stack[-1].state = state
                elif type(stack[-1]) is not dict:  # an OrderedDict's are notes beside its items
                    raise RefusedPickle(f"the state of a {type(stack[-1]).__name__}")
            case "STOP":
                return stack.pop()
            case "PROTO":
                pass
            case other:
                raise RefusedPickle(f"the instruction {other}")
    raise ValueError("it doesn't stop")


def _name(argument: str, allowed: Collection[str]) -> Name:
    name = argument.replace(" ", ".", 1)
    if name not in allowed:
        raise RefusedPickle(name)
    return Name(name)


def _call(function: Any, arguments: Any) -> Any:
    if type(function) is not Name or type(arguments) is not tuple:
        raise RefusedPickle("a call of something without a name")
    if function.name != "collections.OrderedDict":
        return Called(function.name, arguments)
    if arguments:
        raise RefusedPickle("an OrderedDict with arguments")
    return {}


def _extend(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise RefusedPickle(f"items of a {type(target).__name__}")
    target.extend(items)


def _set(target: Any, items: list[Any]) -> None:
    """Keys are texts and small numbers: the hashes of others can take for ever, or be alike."""
    if type(target) is not dict:
        raise RefusedPickle(f"keys of a {type(target).__name__}")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not str and not (type(key) is int and abs(key) < 2**32):
            raise RefusedPickle(f"a key that is a {type(key).__name__}")
        if key in target:
            raise ValueError(f"{key!r} is there twice"[:200])
        target[key] = value
