"""Tar shards, member by member."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import tarfile

import pytest
import shards

from beam_adacompress.errors import ImageError
from beam_adacompress.formats import Record, Replacement, shard_format

FORMAT = shard_format("webdataset")


def tar_of(*members, **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            member.size = len(content or b"")
            tar.addfile(member, io.BytesIO(content or b""))
    return buffer.getvalue()


SAMPLE = (("000.jpg", b"an image"), ("000.cls", b"7"), ("000.json", b"{}"), ("001.jpg", b"another"), ("001.cls", b"8"))
SHARD = tar_of(*SAMPLE)


def records(data, form=FORMAT):
    return shards.records(data, form)


def rewritten(data, results=None, form=FORMAT):
    return shards.rewritten(data, results or {}, form)


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(member, tar.extractfile(member).read() if member.isreg() else None) for member in tar.getmembers()]


def contents(data):
    return [(member.name, content) for member, content in members(data)]


def test_images_are_members_with_an_extension_of_images():
    assert records(SHARD) == [Record("000.jpg", b"an image"), Record("001.jpg", b"another")]


def test_a_shard_without_images_comes_out_as_it_was():
    empty = tar_of()
    assert records(empty) == []
    assert contents(rewritten(empty)) == []
    assert contents(rewritten(tar_of(("a.txt", b"x")))) == [("a.txt", b"x")]


def test_members_keep_their_order():
    result = rewritten(SHARD, {"001.jpg": Replacement(b"smaller", renamed=False)})
    assert contents(result) == [*SAMPLE[:3], ("001.jpg", b"smaller"), SAMPLE[4]]


def test_headers_are_kept():
    one = tarfile.TarInfo("a/b.jpg")
    one.mtime, one.mode, one.uid, one.gid, one.uname, one.gname = 1234567890.25, 0o640, 7, 8, "ada", "users"
    one.pax_headers = {"comment": "by hand"}
    link = tarfile.TarInfo("c.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "a/b.jpg"
    folder = tarfile.TarInfo("a")
    folder.type, folder.mode = tarfile.DIRTYPE, 0o700
    long = tarfile.TarInfo("n" * 200 + ".jpg")
    data = tar_of((folder, None), (one, b"image"), (link, None), (long, b"x"), pax_headers={"mine": "kept"})
    assert [record.name for record in records(data)] == ["a/b.jpg", "n" * 200 + ".jpg"]
    result = rewritten(data, {"a/b.jpg": Replacement(b"smaller image", renamed=False)})

    def described(data):
        return [
            (m.name, m.mtime, m.mode, m.uid, m.gid, m.uname, m.gname, m.type, m.linkname, m.pax_headers.get("comment"))
            for m, _ in members(data)
        ]

    assert described(result) == described(data)
    assert [content for _, content in members(result)] == [None, b"smaller image", None, b"x"]
    with tarfile.open(fileobj=io.BytesIO(result)) as tar:
        assert tar.pax_headers["mine"] == "kept"


def test_another_format_takes_another_name():
    data = tar_of(("0.png", b"a"), ("0.cls", b"1"), ("1.left.png", b"b"), ("2.PNG", b"c"))
    names = {name: Replacement(b"JPEG", renamed=True) for name in ("0.png", "1.left.png", "2.PNG")}
    assert [name for name, _ in contents(rewritten(data, names))] == ["0.jpg", "0.cls", "1.left.jpg", "2.jpg"]


def test_a_name_that_is_taken_is_not_taken_again():
    data = tar_of(("0.png", b"a"), ("0.webp", b"b"), ("1.png", b"c"), ("1.jpg", b"d"))
    assert {record.name: record.may_rename for record in records(data)} == {
        "0.png": True,
        "0.webp": False,
        "1.png": False,
        "1.jpg": True,
    }


def test_chosen_extensions():
    data = tar_of(("0.left.jpg", b"a"), ("0.right.jpg", b"b"), ("0.img", b"c"))
    form = shard_format("webdataset", ".LEFT.jpg; img")
    assert [record.name for record in records(data, form)] == ["0.left.jpg", "0.img"]


def test_names_that_lead_elsewhere_or_stand_twice():
    data = tar_of(("./0.jpg", b"a"), ("../1.jpg", b"b"), ("/2.jpg", b"c"), ("3.jpg", b"d"), ("3.jpg", b"e"))
    found = records(data)
    assert [record.name for record in found] == ["0.jpg", "00000001", "00000002", "3.jpg", "00000004/3.jpg"]
    result = rewritten(data, {"00000004/3.jpg": Replacement(b"last", renamed=False)})
    assert contents(result) == [
        ("./0.jpg", b"a"),
        ("../1.jpg", b"b"),
        ("/2.jpg", b"c"),
        ("3.jpg", b"d"),
        ("3.jpg", b"last"),
    ]


def test_names_in_no_known_writing():
    data = tar_of(("\udce9.jpg", b"a"), encoding="utf-8", errors="surrogateescape", format=tarfile.GNU_FORMAT)
    assert [record.name for record in records(data)] == ["00000000"]
    result = rewritten(data, {"00000000": Replacement(b"b", renamed=False)})
    with tarfile.open(fileobj=io.BytesIO(result), encoding="utf-8", errors="surrogateescape") as tar:
        assert [member.name for member in tar.getmembers()] == ["\udce9.jpg"]


def test_images_that_are_too_large_are_carried_along():
    form = shard_format("webdataset", None, 7)
    first, second = records(SHARD, form)
    assert (first.data, first.problem) == (None, "8 bytes are more than the limit of 7; raise it with --max-bytes")
    assert second.data == b"another"
    assert contents(rewritten(SHARD, {}, form)) == list(SAMPLE)


def test_names_that_are_made_are_not_made_twice():
    data = tar_of(("00000002/a.jpg", b"a"), ("a.jpg", b"b"), ("a.jpg", b"c"))
    assert [record.name for record in records(data)] == ["00000002/a.jpg", "a.jpg", "00000002/00000002/a.jpg"]


def test_one_name_in_two_writings_is_taken():
    data = tar_of(("./0.png", b"a"), ("0.jpg", b"b"), ("x/1.jpg", b"c"), ("x/./1.png", b"d"))
    assert [record.may_rename for record in records(data)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("kind", "target"), [(tarfile.LNKTYPE, "x/0.png"), (tarfile.SYMTYPE, "../x/0.png"), (tarfile.SYMTYPE, "./0.png")]
)
def test_what_a_link_leads_to_keeps_its_name(kind, target):
    link = tarfile.TarInfo("y/link" if target.startswith("..") else "x/link")
    link.type, link.linkname = kind, target
    data = tar_of(("x/0.png", b"a"), (link, None), ("x/1.png", b"b"))
    assert [record.may_rename for record in records(data)] == [False, True]


@pytest.mark.parametrize(
    ("pack", "unpack"),
    [(gzip.compress, gzip.decompress), (bz2.compress, bz2.decompress), (lzma.compress, lzma.decompress)],
    ids=["gzip", "bzip2", "xz"],
)
def test_compression_is_kept(pack, unpack):
    packed = pack(SHARD)
    assert records(packed) == records(SHARD)
    replaced = {"000.jpg": Replacement(b"JPEG", renamed=False)}
    result = rewritten(packed, replaced)
    assert result == rewritten(packed, replaced)
    assert unpack(result) == rewritten(SHARD, replaced)
    with pytest.raises(ImageError, match="it is no whole tar file"):
        records(packed[: len(packed) // 2])


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_a_flipped_bit_in_a_compressed_shard_is_noticed(pack):
    noise = b"".join(hashlib.sha256(bytes([index])).digest() for index in range(64))
    packed = pack(tar_of(("0.jpg", noise), ("1.jpg", noise[::-1])))
    for place in range(len(packed) // 5, len(packed) // 2, 97):
        damaged = bytearray(packed)
        damaged[place] ^= 1
        for read in (records, rewritten):
            with pytest.raises(ImageError) as raised:
                read(bytes(damaged))
            assert raised.value.reason == "corrupt-shard"


def test_tar_files_one_behind_the_other_are_refused():
    with pytest.raises(ImageError, match=r"it goes on where the tar file ends, behind the member 001\.cls") as raised:
        records(SHARD + SHARD)
    assert raised.value.reason == "unsupported-shard"


def test_a_connection_that_is_lost_is_no_damage():
    with pytest.raises(ConnectionError):
        next(FORMAT.records(shards.Lost(SHARD * 10)))


def test_zstd_is_refused():
    with pytest.raises(ImageError, match="it is compressed with zstd, which is not supported"):
        records(b"\x28\xb5\x2f\xfd....")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"this is a text", "it is no whole tar file"),
        (SHARD[:1000], "it is no whole tar file"),  # in the middle of the first member
        (b"\1" * 512 + SHARD[512:], "it is no whole tar file"),
        (SHARD[:1024] + b"\1" * 512 + SHARD[1536:], "the tar file is damaged behind the member 000.jpg"),
        (SHARD[:1300], "the tar file is damaged behind the member 000.jpg"),
    ],
    ids=["text", "cut in a member", "first header", "second header", "cut in a header"],
)
def test_damage_is_noticed(data, message):
    for read in (records, rewritten):
        with pytest.raises(ImageError, match=message) as raised:
            read(data)
        assert raised.value.reason == "corrupt-shard"


def test_sparse_files_are_refused():
    header = bytearray(tarfile.TarInfo("a.bin").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(ImageError, match="it holds sparse files"):
        records(bytes(header) + bytes(1024))
