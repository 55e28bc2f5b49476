"""Ten schemas of growing size, every text in them bounded, so that small models come to an end."""

from __future__ import annotations

import random
from typing import Any

import jsonschema

Schema = dict[str, Any]

WORD: Schema = {"type": "string", "maxLength": 12}
SMALL: Schema = {"type": "integer", "minimum": 0, "maximum": 99}
FLAG: Schema = {"type": "boolean"}
COLOUR: Schema = {"enum": ["red", "green", "blue"]}


def object_schema(**properties: Any) -> Schema:
    """An object with all of these and nothing else."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def array_schema(items: Schema, most: int = 3) -> Schema:
    """A list of a few."""
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


PLACE = object_schema(street=WORD, number=SMALL)
DATE: Schema = {"type": "string", "format": "date"}
CODE: Schema = {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}

SCHEMAS: list[Schema] = [
    object_schema(ok=FLAG),
    object_schema(city=WORD),
    object_schema(count=SMALL, colour=COLOUR),
    object_schema(name=WORD, tags=array_schema(WORD)),
    object_schema(day=DATE, code=CODE, rate={"type": "number", "minimum": 0, "maximum": 1}),
    object_schema(place=PLACE, colour={"anyOf": [COLOUR, {"type": "null"}]}),
    object_schema(people=array_schema(object_schema(name=WORD, age=SMALL), 2), ok=FLAG),
    {
        **object_schema(first={"$ref": "#/$defs/place"}, second={"$ref": "#/$defs/place"}),
        "$defs": {"place": PLACE},
    },
    {
        **object_schema(tree={"$ref": "#/$defs/node"}),
        "$defs": {
            "node": object_schema(
                name=WORD, below={"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "null"}]}
            ),
            "leaf": object_schema(name=WORD, below={"type": "null"}),
        },
    },
    object_schema(
        **{f"field_{n}": [WORD, SMALL, FLAG, COLOUR][n % 4] for n in range(12)},
        places=array_schema(PLACE, 2),
    ),
]


def validate(value: Any, schema: Schema) -> None:
    """Hold a value against a schema, formats too.

    Raises:
        jsonschema.ValidationError: it does not fit.
    """
    jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(value)


def sample_cases(seed: int, count: int) -> list[tuple[int, int]]:
    """Draw which of the schemas to try, and with which seed: a part of the whole of 100."""
    whole = [(schema, number) for schema in range(len(SCHEMAS)) for number in range(10)]
    return random.Random(seed).sample(whole, count)  # noqa: S311 - no secret
