"""Checkpoints that nobody vouches for: each damaged or malicious one is one clear error."""

import json
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile

import pytest
import torch
from pico_models import pico_weights, save_folder
from safetensors.torch import save

import amm
from amm.checkpoints import files, open_checkpoint
from amm.errors import InputError

WEIGHTS = pico_weights(1)


def single(folder):
    return folder / "model.safetensors"


def header_of(content):
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_header(text, data):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(text)) + text + data


def truncated(folder, rng):
    content = single(folder).read_bytes()
    single(folder).write_bytes(content[: rng.randrange(len(content))])


def flipped_header_bits(folder, rng):
    """In the structure or a name; a bit of a number may give another valid header."""
    content = bytearray(single(folder).read_bytes())
    size = struct.unpack("<Q", content[:8])[0]
    letters = [i for i in range(8, 8 + size) if not chr(content[i]).isdigit()]
    for at in rng.sample(letters, 3):
        content[at] ^= 1 << rng.randrange(7)
    single(folder).write_bytes(content)


def header_length(folder, rng):
    content = single(folder).read_bytes()
    length = rng.choice([10 * 2**30, 2**63, 2**64 - 1, 2**26, len(content), 0, 1])
    single(folder).write_bytes(struct.pack("<Q", length) + content[8:])


def dtype_name(folder, rng):
    header, data = header_of(single(folder).read_bytes())
    name = rng.choice([key for key in header if key != "__metadata__"])
    header[name]["dtype"] = rng.choice(
        ["F99", "", "float32", None, 3, "I64", "C64", "F16", "I32", "U32"]
    )
    single(folder).write_bytes(with_header(header, data))


def offsets(folder, rng):
    header, data = header_of(single(folder).read_bytes())
    name = rng.choice([key for key in header if key != "__metadata__"])
    begin, end = header[name]["data_offsets"]
    header[name]["data_offsets"] = rng.choice(
        [[begin + 4, end + 4], [end, begin], [0, end - begin + 8], [begin, 2**62], [-8, end], []]
    )
    single(folder).write_bytes(with_header(header, data))


def shapes(folder, rng):
    header, data = header_of(single(folder).read_bytes())
    name = rng.choice([key for key in header if key != "__metadata__"])
    shape = header[name]["shape"]
    header[name]["shape"] = rng.choice(
        [[2**63, 8], [-1], shape[::-1] + [1], [0], "16", [*shape, 2]]
    )
    single(folder).write_bytes(with_header(header, data))


def duplicate_keys(folder, rng):
    header, data = header_of(single(folder).read_bytes())
    name = rng.choice([key for key in header if key != "__metadata__"])
    text = json.dumps(header)
    twice = f'{text[:-1]}, "{name}": {json.dumps(header[name])}}}'
    single(folder).write_bytes(with_header(twice.encode(), data))


def deep_header(folder, rng):
    _, data = header_of(single(folder).read_bytes())
    single(folder).write_bytes(with_header(b"[" * rng.randrange(10**5, 10**6), data))


def not_finite(folder, rng):
    weights = {key: value.clone() for key, value in WEIGHTS.items()}
    entries = weights[rng.choice(sorted(weights))].view(-1)
    entries[rng.randrange(len(entries))] = rng.choice([float("nan"), float("inf"), -float("inf")])
    single(folder).write_bytes(save(weights))


def no_file(folder, rng):
    single(folder).unlink()
    rng.choice(
        [
            lambda: os.mkfifo(single(folder)),
            lambda: single(folder).symlink_to("/dev/zero"),
            lambda: single(folder).symlink_to("/dev/tty"),
            lambda: single(folder).symlink_to("gone"),
            lambda: single(folder).symlink_to("model.safetensors"),
            lambda: single(folder).mkdir(),
            lambda: single(folder).write_bytes(b""),
            lambda: single(folder).write_text(
                "version https://git-lfs.github.com/spec/v1\noid sha"
            ),
        ]
    )()


def index(folder, rng):
    single(folder).rename(folder / "one.safetensors")
    file = folder / "model.safetensors.index.json"
    names = dict.fromkeys(WEIGHTS, "one.safetensors")
    name = rng.choice(sorted(WEIGHTS))
    elsewhere = ["../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..\\one.safetensors"]
    choices = [*elsewhere, "gone.safetensors", "model.bin", "", None, 3, ["one.safetensors"]]
    choice = rng.randrange(len(choices) + 6)
    if choice < len(choices):
        text = json.dumps({"weight_map": names | {name: choices[choice]}})
    else:
        text = [
            '{"weight_map": {"a": "one.safetensors", "a": "one.safetensors"}}',
            '{"weight_map": ' * 10**5,
            '{"weight_map": ' + "9" * 10**5 + "}",
            json.dumps({"weight_map": names | {"more": "one.safetensors"}}),
            "\0" * (files.JSON_LIMIT + 10),
            '{"weight_map": {}}',
        ][choice - len(choices)]
    file.write_text(text)


class Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def malicious_pickle(folder, rng):
    ran = folder.parent / "ran"
    code = f"open({str(ran)!r}, 'w')"
    payload = rng.choice(
        [
            Call(os.system, f"touch {ran}"),
            Call(eval, code),
            Call(exec, code),
            Call(open, str(ran), "w"),
            Call(subprocess.run, ["touch", str(ran)]),
            Call(__import__, "antigravity"),
            Call(getattr, Call(__import__, "os"), "system"),
            Call(torch.load, str(folder / "config.json")),
        ]
    )
    single(folder).unlink()
    state = WEIGHTS | {rng.choice(["x", "model.norm.weight"]): payload}
    target = rng.choice(["pytorch_model.bin", "actor/model_world_size_1_rank_0.pt"])
    (folder / target).parent.mkdir(exist_ok=True)
    if rng.random() < 0.5:
        torch.save(state, folder / target)
    else:
        (folder / target).write_bytes(pickle.dumps(payload))


def damaged_archive(folder, rng):
    single(folder).unlink()
    torch.save(WEIGHTS, folder / "pytorch_model.bin")
    content = bytearray((folder / "pytorch_model.bin").read_bytes())
    with zipfile.ZipFile(folder / "pytorch_model.bin") as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    (pickled,) = (name for name in records if name.endswith("data.pkl"))
    how = rng.randrange(4)
    if how == 0:
        del content[rng.randrange(len(content)) :]
    elif how == 1:
        with zipfile.ZipFile(folder / "small", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in records.items():
                archive.writestr(name, data)
        content = (folder / "small").read_bytes()
    else:
        if how == 2:
            records[pickled] = records[pickled][: rng.randrange(len(records[pickled]))]
        else:
            del records[rng.choice([name for name in records if "/data/" in name])]
        with zipfile.ZipFile(folder / "small", "w") as archive:
            for name, data in records.items():
                archive.writestr(name, data)
        content = (folder / "small").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(content)


def odd_tensors(folder, rng):
    single(folder).unlink()
    odd = rng.choice(
        [
            torch.eye(16).to_sparse(),
            torch.ones(1).expand(2**40),
            torch.quantize_per_tensor(torch.ones(16), 0.1, 0, torch.quint8),
            torch.empty(16, device="meta"),
            torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            torch.ones(16, dtype=torch.complex64),
            {"nested": torch.ones(16)},
            3,
        ]
    )
    torch.save(WEIGHTS | {"model.norm.weight": odd}, folder / "pytorch_model.bin")


def adapter(folder, rng):
    single(folder).unlink()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {
        f"{name}.lora_A.weight": torch.ones(2, 16),
        f"{name}.lora_B.weight": torch.ones(16, 2),
    }
    how = rng.randrange(6)
    if how == 0:
        config |= rng.choice([{"r": "x"}, {"r": -1}, {"peft_type": 3}, {"alpha_pattern": [1]}])
    elif how == 1:
        config["alpha_pattern"] = {"(" + "a*" * 30 + ")*": 1}
    elif how == 2:
        factors[f"{name}.lora_A.weight"] = torch.ones(3, 16)
    elif how == 3:
        factors[f"{name}.lora_C.weight"] = torch.ones(2)
    content = save(factors)
    content = content[: -8 * (how == 4) or None]
    (folder / "adapter_model.safetensors").write_bytes(content)
    text = json.dumps(config)
    (folder / "adapter_config.json").write_text("[" * 10**5 if how == 5 else text)


KINDS = [
    truncated,
    flipped_header_bits,
    header_length,
    dtype_name,
    offsets,
    shapes,
    duplicate_keys,
    deep_header,
    not_finite,
    no_file,
    index,
    malicious_pickle,
    damaged_archive,
    odd_tensors,
    adapter,
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(120))
def test_a_corrupted_expert_is_one_clear_error_and_leaves_no_output(tmp_path, seed):
    base = save_folder(tmp_path / "base", pico_weights(0))
    expert = save_folder(tmp_path / "expert", WEIGHTS)
    KINDS[seed % len(KINDS)](expert, random.Random(seed))
    with pytest.raises(InputError) as error:
        amm.merge(base, [expert], output=tmp_path / "out", method="mean")
    assert str(expert) in str(error.value)
    assert error.value.__cause__ is None and len(str(error.value)) < 3000
    assert sorted(os.listdir(tmp_path)) == ["base", "expert"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_corrupted_base_is_one_clear_error_too(tmp_path, kind):
    base = save_folder(tmp_path / "base", WEIGHTS)
    expert = save_folder(tmp_path / "expert", pico_weights(0))
    kind(base, random.Random(2))
    with pytest.raises(InputError, match=str(base)):
        amm.merge(base, [expert], output=tmp_path / "out", method="mean")
    assert sorted(os.listdir(tmp_path)) == ["base", "expert"]


@pytest.mark.slow
def test_huge_claims_cost_no_memory_and_no_time(tmp_path):
    """They are refused in a process that may use 512 MB beyond what torch needs at its start."""
    folder = save_folder(tmp_path / "header", WEIGHTS)
    (tmp_path / "expanded").mkdir()
    expanded = {"w": torch.ones(1).expand(2**40)}
    torch.save(expanded, tmp_path / "expanded" / "pytorch_model.bin")
    single(folder).write_bytes(struct.pack("<Q", 10 * 2**30) + b"{")
    (tmp_path / "bomb").mkdir()
    bomb = tmp_path / "bomb" / "pytorch_model.bin"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x/data.pkl", "w", force_zip64=True) as record:
            for _ in range(64):
                record.write(bytes(2**24))
    code = (
        "import resource, sys, amm.checkpoints as c, torch\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 2**29,) * 2)\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        c.open_checkpoint(path)\n"
        "    except c.InputError:\n"
        "        print('refused')\n"
    )
    paths = [str(tmp_path / name) for name in ("header", "expanded", "bomb")]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["refused"] * 3, done.stderr


def test_flipped_bits_in_the_data_are_not_seen_without_a_hash(tmp_path):
    folder = save_folder(tmp_path / "expert", WEIGHTS)
    content = bytearray(single(folder).read_bytes())
    content[-1] ^= 1
    single(folder).write_bytes(content)
    assert open_checkpoint(folder).keys() == sorted(WEIGHTS)


def rewritten(folder, change):
    """A folder whose torch archive was changed by a function of its records' names and bytes."""
    single(folder).unlink()
    file = folder / "pytorch_model.bin"
    torch.save(WEIGHTS, file)
    with zipfile.ZipFile(file) as archive:
        records = [(record.filename, archive.read(record)) for record in archive.infolist()]
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in change(records):
            archive.writestr(name, content)
    return file


def replaced(part, old, new):
    return lambda records: [(n, c.replace(old, new) if n.endswith(part) else c) for n, c in records]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: records, None),
        (lambda records: [*records, records[1]], "is there twice"),
        (lambda records: [*records, ("other/data.pkl", b"")], "too many values"),
        (replaced("byteorder", b"little", b"big"), "bytes are in big order, and only little"),
        (replaced("byteorder", b"little", bytes(20)), "20 bytes of byteorder"),
        (
            lambda records: [(n, c[: -4 * n.endswith("/data/0") or None]) for n, c in records],
            "isn't a dense tensor whose bytes are in the file",
        ),
        (
            replaced("data.pkl", b"model.norm.weight", b"model.norm.w\xed\xa0\x80ht"),
            "can't be called",
        ),
        (
            replaced("data.pkl", b"\x11\0\0\0model.norm.weight", b"\x0c\0\0\0__metadata__"),
            "can't be called '__metadata__'",
        ),
    ],
)
def test_records_and_names_of_a_torch_archive_are_checked(tmp_path, change, message):
    folder = save_folder(tmp_path / "model", WEIGHTS)
    file = rewritten(folder, change)
    if message is None:
        assert torch.equal(
            open_checkpoint(folder).read("model.norm.weight"), WEIGHTS["model.norm.weight"]
        )
        return
    with pytest.raises(InputError, match=message) as error:
        open_checkpoint(folder)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("checksums", [True, False])
def test_a_flipped_bit_of_a_torch_archive_is_found_where_checksums_were_written(
    tmp_path, checksums
):
    base = save_folder(tmp_path / "base", WEIGHTS)
    expert = save_folder(tmp_path / "expert", WEIGHTS)
    single(expert).unlink()
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save(WEIGHTS, expert / "pytorch_model.bin")
    finally:
        torch.serialization.set_crc32_options(True)
    merge = dict(base=base, experts=[expert], output=tmp_path / "out", method="mean")
    content = bytearray((expert / "pytorch_model.bin").read_bytes())
    stored = WEIGHTS["visual.patch_embed.proj.weight"].numpy().tobytes()
    content[content.index(stored)] ^= 1
    (expert / "pytorch_model.bin").write_bytes(content)
    if not checksums:
        assert amm.merge(**merge).tensors
        return
    with pytest.raises(InputError, match=r"pytorch_model.bin: the record .*/data/. isn't what was"):
        amm.merge(**merge)
    assert sorted(os.listdir(tmp_path)) == ["base", "expert"]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.uint16, torch.float8_e4m3fnuz])
def test_dtypes_that_safetensors_lacks_are_named(tmp_path, dtype):
    folder = save_folder(tmp_path / "model", WEIGHTS)
    single(folder).unlink()
    torch.save({"w": torch.ones(2).to(dtype)}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=f"w has dtype {str(dtype)[6:]}, which isn't read"):
        open_checkpoint(folder)


@pytest.mark.parametrize("reader", ["safetensors", "bin", "shards"])
def test_a_file_that_is_cut_short_while_it_is_open_is_an_error(tmp_path, reader):
    """Touching a page that the file no longer has would end the process."""
    folder = save_folder(tmp_path / "model", WEIGHTS)
    file = single(folder)
    if reader != "safetensors":
        file.unlink()
        name = {"bin": "pytorch_model.bin", "shards": "model_world_size_1_rank_0.pt"}[reader]
        file = folder / name
        torch.save(WEIGHTS, file)
    checkpoint = open_checkpoint(folder)
    os.truncate(file, 100)
    with pytest.raises(InputError, match="was cut short while it was read"):
        checkpoint.read("model.norm.weight")


@pytest.mark.parametrize("weights", [{}, {"w": torch.ones(0, 5)}])
def test_a_model_without_entries_is_an_error(tmp_path, weights):
    with pytest.raises(InputError, match="holds no weights"):
        open_checkpoint(save_folder(tmp_path / "model", weights))


SMALL_FILES = ["config.json", "provenance.json", "model.safetensors.index.json"]


@pytest.mark.parametrize("name", SMALL_FILES)
@pytest.mark.parametrize("how", ["pipe", "zeros", "large", "deep", "list", "surrogate"])
def test_small_files_of_any_kind_cost_nothing(tmp_path, monkeypatch, name, how):
    monkeypatch.setattr("amm.checking.try_loading", lambda library, folder: (None, "left out"))
    folder = save_folder(tmp_path / "model", WEIGHTS)
    file = folder / name
    file.unlink(missing_ok=True)
    if how == "pipe":
        os.mkfifo(file)
    elif how == "zeros":
        file.symlink_to("/dev/zero")
    elif how == "large":
        file.touch()
        os.truncate(file, 2**40)
    else:
        text = {"deep": '{"a":' * 10**5, "list": "[1]", "surrogate": '{"\\ud800": 1}'}[how]
        file.write_text(text)
    failed = [check for check in amm.check(folder).checks if check.ok is False]
    assert any(str(file) in check.detail for check in failed)


@pytest.mark.parametrize(
    "content",
    [
        {"config": {"base": 3}},
        {"config": {"base": ["x"]}},
        {"config": {"base": "a\0b"}},
        {"config": {"base": "someone/online"}},
        {"config": {"base": "~nosuchuser/x", "save_dtype": {"a": 1}}},
        {"config": [], "donor": 3, "copied_files": {"a": "b"}},
        {"config": {}, "donor": ".", "copied_files": {"a": 3}},
        {"config": {}, "donor": "/", "copied_files": {"etc/passwd": "../passwd"}},
    ],
)
def test_what_a_provenance_says_sends_check_nowhere(tmp_path, monkeypatch, content):
    monkeypatch.setattr("amm.checking.try_loading", lambda library, folder: (None, "left out"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    folder = save_folder(tmp_path / "model", WEIGHTS)
    (folder / "provenance.json").write_text(json.dumps(content))
    checks = {check.name: check for check in amm.check(folder).checks}
    assert checks["weights"].ok and checks["names"].ok is None
    assert "huggingface_hub" not in checks["names"].detail
