"""What schemathesis cannot send: see tests/openapi.sh."""

import json

import schemathesis


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """A literal `%`, which is `%25` by now, with two hexadecimal digits behind it: the client takes them for encoded
    already and sends them as they are, so that the service would see another name than the one that was tried."""
    if path_parameters is None:
        return None
    without = lambda value: value.replace("%25", "_") if isinstance(value, str) else value
    return {name: without(value) for name, value in path_parameters.items()}


@schemathesis.serializer("application/x-ndjson")
def serialize_lines(context, value):
    """Lines of JSON are a text by the document; what is tried in their place is sent as the JSON that it is."""
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")
