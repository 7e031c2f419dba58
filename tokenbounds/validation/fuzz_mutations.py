"""Ways to damage a run: bytes, JSON values, what stands at a path, parquet, messages, tokens, safetensors."""

import io
import json
import os
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.io.files import canonical_json
from tokenbounds.scoring.records import SCHEMA
from tokenbounds.validation.fuzz_files import DEEP, canonical_or_not, closed, opened

_SPARSE_BYTES = 3 << 30
VALUES = [
    *(None, True, False, -1, 0, 1, 2, 0.5, -0.0, 1e308, -1e308, 5e-324, 1e-12, 2**31, 2**53 + 1, 2**63),
    *(2**64, 10**39, 10**60, float("nan"), float("inf"), "", "a", "x" * 10_000, "\n\n", "\x1b[2J", "\x00"),
    *("\ud800", "0" * 64, "../../etc/passwd", "/dev/zero", "/etc/passwd", "..", "a/../../b", "NaN", "1"),
    *([], {}, [[]], {"": None}, [0] * 1000, DEEP, {"kind": "levels"}, [None, True], {"low": 0, "high": 1}),
]
NAMES = ["", "a", "sha256", "path", "kind", "__class__", "x" * 5000, "\x00", "n", "window", "alpha_head"]


def damage_bytes(random, copy, names):
    """Change bytes of one or two files, without a regard to what they mean."""
    name = random.choice(names)
    data = bytearray(copy.read(name))
    for _ in range(random.choice([1, 1, 1, 2, 8])):
        at, size = random.randrange(len(data) + 1), random.choice([1, 2, 4, 16, 256])
        kind = random.choice(
            ["flip", "byte", "insert", "delete", "truncate", "copy", "zero", "number", "swap"]
        )
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif kind == "byte" and at < len(data):
            data[at] = random.choice([0, 1, 127, 128, 255, random.randrange(256)])
        elif kind == "insert":
            data[at:at] = random.randbytes(size)
        elif kind == "delete":
            del data[at : at + size]
        elif kind == "truncate":
            del data[at:]
        elif kind == "copy":
            start = random.randrange(len(data) + 1)
            data[at:at] = data[start : start + size]
        elif kind == "zero":
            data[at : at + size] = bytes(len(data[at : at + size]))
        elif kind == "number":
            value = random.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1])
            data[at : at + 8] = struct.pack(random.choice("<>") + "Q", value)
        else:
            other = random.choice(names)
            block = copy.read(other)
            start = random.randrange(len(block) + 1)
            data[at : at + size] = block[start : start + size]
            if random.random() < 0.3:
                copy.write(other, block[:start] + bytes(data[:size]) + block[start + size :])
    copy.write(name, bytes(data))


def _places(value, found, parent=None, key=None):
    """List (container, key) of every value in a JSON value."""
    if parent is not None:
        found.append((parent, key))
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        _places(part, found, value, name)
    return found


def damage_json_value(random, value):
    """Change one to three places of a JSON value in place; return the value, or what takes its place."""
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        places = _places(value, [])
        if not places or random.random() < 0.01:
            return random.choice(VALUES)
        parent, key = random.choice(places)
        kind = random.choice(["replace", "replace", "replace", "remove", "rename", "add", "nudge", "borrow"])
        if kind == "replace":
            parent[key] = json.loads(json.dumps(random.choice(VALUES)))
        elif kind == "remove":
            del parent[key]
        elif kind == "rename" and isinstance(parent, dict):
            parent[random.choice(NAMES)] = parent.pop(key)
        elif kind == "add":
            if isinstance(parent, dict):
                parent[random.choice(NAMES)] = random.choice(VALUES)
            else:
                parent.insert(key, random.choice([parent[key], random.choice(VALUES)]))
        elif kind == "nudge":
            parent[key] = _nudged(random, parent[key])
        else:
            other, from_key = random.choice(places)
            parent[key] = json.loads(json.dumps(other[from_key])) if from_key in _keys(other) else None
    return value


def _keys(container):
    return container if isinstance(container, dict) else range(len(container))


def _nudged(random, value):
    """Change a value by little, within its kind."""
    if isinstance(value, bool):
        return random.choice([not value, int(value), float(value)])
    if isinstance(value, int):
        return value + random.choice([-1, 1, 8, -value, value, 0.0])
    if isinstance(value, float):
        return value * random.choice([0.5, 2, 1 + 1e-9, 1 - 1e-9, -1, 1 + 1e-14])
    if isinstance(value, str) and value:
        at = random.randrange(len(value))
        return value[:at] + random.choice(["", "0", "a", "/", ".", "\x7f", "é"]) + value[at + 1 :]
    if isinstance(value, list):
        return random.choice(
            [value[:-1], value + value, value[::-1], {str(i): v for i, v in enumerate(value)}]
        )
    return [value]


def damage_json(random, copy, names):
    """Change values of a JSON file, or how they are written."""
    name = random.choice(names)
    value = damage_json_value(random, copy.json(name))
    copy.write_json(name, value)
    if random.random() < 0.05:
        text = copy.read(name)
        kind = random.choice(["twice", "bom", "comment", "utf16", "tail"])
        changed = {
            "twice": text.replace(b"{", b'{"name": 0, "name": 1,', 1),
            "bom": b"\xef\xbb\xbf" + text,
            "comment": b"// a comment\n" + text,
            "utf16": text.decode("utf-8", "replace").encode("utf-16"),
            "tail": text + b"{}",
        }
        copy.write(name, changed[kind])


def damage_place(random, copy, names):
    """Put something else in the place of a file: nothing, a link, folder, pipe, device, or sparse file."""
    name = random.choice(names)
    outside = copy.folder.parent / "outside"
    kind = random.choice(
        ["absent", "outside", "same", "zero", "pipe", "folder", "dangling", "inside", "above"]
    )
    if kind == "absent" and random.random() < 0.1:
        kind = "sparse"
    data = copy.read(name)
    path = copy.remove(name)
    if kind == "outside":
        path.symlink_to("/etc/passwd")
    elif kind == "same":  # the very bytes, but outside the run
        outside.write_bytes(data)
        path.symlink_to(outside)
    elif kind == "zero":
        path.symlink_to(random.choice(["/dev/zero", "/dev/stdin", "/proc/self/mem"]))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
        (path / "file").write_bytes(data)
    elif kind == "dangling":
        path.symlink_to(path.name + ".absent")
    elif kind == "inside":
        path.symlink_to(copy.folder / random.choice([other for other in names if other != name]))
    elif kind == "above":
        path.symlink_to(copy.folder)
    elif kind == "sparse":
        with open(path, "wb") as handle:
            # published weights are mapped, which takes no memory but counts towards the limit
            handle.truncate(_SPARSE_BYTES // 3 if name.startswith("published/") else _SPARSE_BYTES)


def damage_parquet(random, copy, names):
    """Write records otherwise: other types, columns, encodings, rows, values; or a bomb."""
    name = random.choice(names)
    table = pq.read_table(io.BytesIO(copy.read(name)))
    kind = random.choice(
        ["type", "columns", "values", "rows", "bomb", "nested", "nulls", "empty", "claim", "same"]
    )
    column = random.choice(table.column_names)
    number = table.column_names.index(column)
    options = {
        "compression": random.choice(["zstd", "none", "snappy", "gzip"]),
        "use_dictionary": random.random() < 0.5,
        "row_group_size": random.choice([1, 7, 1 << 20]),
        "data_page_version": random.choice(["1.0", "2.0"]),
    }
    if kind == "type":
        kinds = [
            pa.int8(),
            pa.float32(),
            pa.string(),
            pa.float64(),
            pa.int64(),
            pa.decimal128(38, 2),
            pa.binary(),
        ]
        target = random.choice(kinds)
        values = [str(value) if target in (pa.string(),) else value for value in table[column].to_pylist()]
        try:
            table = table.set_column(number, column, pa.array(values).cast(target, safe=False))
        except (pa.ArrowException, TypeError):
            table = table.set_column(number, column, pa.nulls(len(table), target))
    elif kind == "columns":
        extra = pa.array([random.random() for _ in range(len(table))])
        table = random.choice(
            [
                table.drop_columns([column]),
                table.append_column(random.choice(["alpha", column, "x" * 5000, ""]), extra),
                table.select(random.sample(table.column_names, len(table.column_names))),
            ]
        )
    elif kind == "values":
        values = table[column].to_numpy().copy()
        where = np.random.default_rng(random.randrange(2**32)).integers(0, 2, len(values)).astype(bool)
        choices = (
            [-1, 0, 1, 10**9, 2**31 - 1] if values.dtype.kind == "i" else [np.nan, np.inf, -1e308, 0, 1e308]
        )
        if values.dtype == np.int64:
            choices += [2**63 - 1, -(2**63)]
        values[where] = random.choice(choices)
        table = table.set_column(number, column, pa.array(values))
    elif kind == "rows":
        order = list(range(len(table)))
        random.shuffle(order)
        table = random.choice(
            [table.slice(1), pa.concat_tables([table] * 3), table.take(order), table.slice(0, 3)]
        )
    elif kind == "bomb":
        rows = random.choice([1 << 21, 1 << 23])
        table = pa.table(
            {field.name: pa.array(np.zeros(rows, field.type.to_pandas_dtype())) for field in SCHEMA}
        )
        options = {"compression": "zstd", "use_dictionary": True}
    elif kind == "nested":
        nested = pa.array([[{"a": [1]}]] * len(table))
        table = table.set_column(number, column, nested)
    elif kind == "nulls":
        table = table.set_column(number, column, pa.nulls(len(table), table.schema.field(column).type))
    elif kind == "empty":
        table = table.slice(0, 0)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    data = buffer.getvalue()
    if kind == "claim":
        data = _other_footer(random, data)
    copy.write(name, data)


def _other_footer(random, data):
    """Change the footer of a parquet file: its integers, of which one may become a large one."""
    size, length, data = int.from_bytes(data[-8:-4], "little"), len(data), bytearray(data)
    for _ in range(random.choice([1, 2, 4])):
        at = len(data) - 8 - random.randrange(1, size + 1)
        data[at : at + random.choice([0, 1, 5])] = random.choice(
            [b"\xfe\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x80\x01", b"\xff" * 9 + b"\x01", b"\x00", b"\x7f"]
        )
    footer = size + len(data) - length
    data[-8:-4] = random.choice([footer, 2**31 - 1, 2**32 - 1, size]).to_bytes(4, "little")
    return bytes(data)


def damage_message(random, copy, names):
    """Change what a message says: its header (with its checksums and lengths repaired), its body, its end."""
    name = random.choice(names)
    data = copy.read(name)
    header, body = opened(data)
    kind = random.choice(["header"] * 6 + ["body", "body", "trail", "size", "text", "head"])
    if kind == "header":
        data = closed(canonical_or_not(damage_json_value(random, header)), body)
    elif kind == "text":
        text = canonical_json(header).encode()
        at = random.randrange(len(text))
        changed = random.choice(
            [text[:at], text[:at] + b" " + text[at:], text * 2, b"[" * 5000, random.randbytes(99)]
        )
        data = closed(changed.replace(b"\0", b"0"), body)
    elif kind == "body":
        body = bytearray(body)
        for _ in range(random.choice([1, 2, 8])):
            at = random.randrange(len(body) + 1)
            body[at : at + random.choice([0, 1, 4])] = random.choice(
                [
                    b"",
                    random.randbytes(1),
                    random.randbytes(8),
                    b"\xff" * 9 + b"\x01",
                    b"\x80" * 5 + b"\x01",
                    b"\0",
                ]
            )
        data = closed(canonical_json(header).encode(), bytes(body))
    elif kind == "trail":
        data += random.choice([data, b"TBM\x02", random.randbytes(9), b"\0"])
    elif kind == "size":
        number = random.choice(
            [b"\xff" * 8 + b"\x7f", b"\xff\xff\xff\xff\x0f", b"\x80\x00", b"\x00", b"\xff" * 20]
        )
        data = data[:4] + number + data[4:]
        data = data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")
    else:
        width = random.choice([1, 8, 9, 2**20, 2**40])
        layout = random.choice(
            [[["weight", [width]], ["bias", [1]]], [["bias", [1]]], 3, [["weight", [9, 9]]]]
        )
        ends = {"low": random.choice([0.01, 0, 1e-300, -1]), "high": random.choice([0.5, 1, 1e308, 0.01])}
        told = {"codec": {"kind": "float16"}, "config": {"alpha_head": ends}, "layout": layout}
        data += closed(canonical_or_not(told), random.randbytes(random.choice([0, 4, 20])))
    copy.write(name, data)


def damage_tokens(random, copy, names):
    """Change numbers of token shards, document ends or roles."""
    name = random.choice(names)
    kind = "<u8" if name.endswith("ends.bin") else "u1" if name.endswith("roles.bin") else "<u2"
    data = copy.read(name)
    values = np.frombuffer(
        data[: len(data) // np.dtype(kind).itemsize * np.dtype(kind).itemsize], kind
    ).copy()
    if len(values):
        at = random.randrange(len(values))
        largest = int(np.iinfo(kind).max)
        how = random.choice(["set", "swap", "drop", "repeat", "sort", "all"])
        if how == "set":
            values[at] = (
                random.choice([0, 1, 2, 49, 50, largest])
                if kind != "u1"
                else random.choice([0, 1, 2, 3, 255])
            )
        elif how == "swap":
            other = random.randrange(len(values))
            values[[at, other]] = values[[other, at]]
        elif how == "drop":
            values = np.delete(values, at)
        elif how == "repeat":
            values = np.insert(values, at, values[at])
        elif how == "sort":
            values = np.sort(values)
        else:
            values[:] = random.choice([0, 1, largest])
    copy.write(name, values.tobytes())


def damage_safetensors(random, copy, names):
    """Change the header of a safetensors file: lengths, offsets, shapes, types."""
    name = random.choice(names)
    data = copy.read(name)
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    kind = random.choice(["length", "offsets", "shape", "dtype", "json", "json", "body"])
    tensor = header[random.choice([key for key in header if key != "__metadata__"])]
    if kind == "offsets":
        a, b = tensor["data_offsets"]
        tensor["data_offsets"] = random.choice(
            [[-1, b], [b, a], [0, 2**63], [a, b + 1], [0, b], [2**64, 2**65]]
        )
    elif kind == "shape":
        tensor["shape"] = random.choice(
            [[2**40, 2**40], [], [0], [-1], tensor["shape"] * 2, [2**63], [1] * 100]
        )
    elif kind == "dtype":
        tensor["dtype"] = random.choice(["F64", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "X", "", None])
    elif kind == "json":
        header = damage_json_value(random, header)
    elif kind == "body":
        body = random.choice([body[:-1], body + b"\0", b"", b"\xff" * len(body), body[::-1]])
    text = canonical_or_not(header)
    length = len(text)
    if kind == "length":
        length = random.choice([0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1, 10**8])
    copy.write(name, length.to_bytes(8, "little") + text + body)
