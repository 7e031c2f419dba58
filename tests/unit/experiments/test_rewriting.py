"""Contexts and continuations in the tokens of another tokenizer, and tokens that can continue a text."""

from support.resampled import encoded

from tokenbounds.experiments.rewriting import Spellings, rewritten


def parts(pair, context, drawn, source="characters", target="bpe"):
    source, target = pair[source], pair[target]
    tokens = [*encoded(source, drawn.removesuffix("$")), *([source.eot_id] if drawn.endswith("$") else [])]
    split = rewritten(encoded(source, context), tokens, source, target)
    return None if split is None else [part.tolist() for part in split]


def test_rewritten(pair):
    a, c, ab, abc, space = (pair["ids"][piece] for piece in ("a", "c", "ab", "abc", "Ġ"))
    eot = pair["bpe"].eot_id
    assert parts(pair, "c", "c") == [[c], [], [c]]  # nothing joins
    assert parts(pair, "ca", "b") == [[c], [a], [ab]]  # the context's last token is replaced
    assert parts(pair, "cab", "c") == [[c], [ab], [abc]]
    assert parts(pair, "a ", "c") == [[a], [space], [pair["ids"]["Ġc"]]]
    assert parts(pair, "", "ab") == [[], [], [ab]]  # no context
    assert parts(pair, "ab", "$") == [[ab], [], [eot]]  # the document ends
    assert parts(pair, "a", "b$") == [[], [a], [ab, eot]]
    assert parts(pair, "ab", "c", source="bpe", target="characters") == [[1, 2], [], [3]]


def test_bytes_that_are_no_whole_character(pair):
    """Half of an é cannot be written in another vocabulary; the other half belongs to the continuation with
    all of the character."""
    first, second = encoded(pair["bpe"], "é")
    assert rewritten([pair["ids"]["a"]], [first], pair["bpe"], pair["characters"]) is None
    kept, replaced, added = rewritten([pair["ids"]["a"], first], [second], pair["bpe"], pair["characters"])
    assert (kept.tolist(), replaced.tolist(), added.tolist()) == ([1], [], [5])


def test_bytes_that_tokens_spell(pair):
    pieces = pair["bpe"].pieces()
    assert [pieces[pair["ids"][name]] for name in ("<eot>", "Ġc", "abc")] == [b"", b" c", b"abc"]
    assert sorted(pieces[1:257]) == [bytes([value]) for value in range(256)]
    assert pair["characters"].pieces() == [b"", b"a", b"b", b"c", b" ", "é".encode()]


def test_compatible_tokens(pair):
    spellings, ids = Spellings(pair["bpe"].pieces()), pair["ids"]
    assert set(spellings.compatible(b"a")) == {ids["a"], ids["ab"], ids["abc"]}
    assert set(spellings.compatible(b"ab")) == {ids["a"], ids["ab"], ids["abc"]}
    assert set(spellings.compatible(b" ")) == {ids["Ġ"], ids["Ġc"]}
    every = [token for token, piece in enumerate(spellings.pieces) if piece]
    for text in (b"a", b"ab", b"abca", b"\xff", b" c"):
        expected = [
            token
            for token in every
            if spellings.pieces[token].startswith(text) or text.startswith(spellings.pieces[token])
        ]
        assert sorted(spellings.compatible(text)) == expected
