"""Reference answers for tokenizers: tests/golden/tokenizer/.

pip install tokenizers transformers; run in this folder: some minutes. The base is
small: the 256 bytes, and a few merges. Each file is the same byte for byte every
time. With "words" it prints the table of src/text/word.c instead.
"""
import json
import os
import random
import sys
import tempfile

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "tokenizer")
REGEX = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
BYTELEVEL = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=False, use_regex=False)
MERGES = ["a b", "ab c", "\u0120 a", "\u0120a b", "c c", "\u010a \u010a", "w o", "r d", "wo rd"]


def base_vocab():
    vocab = {c: i for i, c in enumerate(sorted(ByteLevel.alphabet()))}
    for merge in MERGES:
        vocab[merge.replace(" ", "")] = len(vocab)
    return vocab


def split(**more):
    return dict(dict(type="Split", pattern={"Regex": REGEX}, behavior="Isolated", invert=False),
                **more)


def file(model=None, **more):
    """tokenizer.json as an object; `model` and keywords replace parts of it."""
    bpe = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix="",
               end_of_word_suffix="", fuse_unk=False, byte_fallback=False, ignore_merges=False,
               vocab=base_vocab(), merges=MERGES)
    bpe.update(model or {})
    d = dict(version="1.0", truncation=None, padding=None, added_tokens=[],
             normalizer={"type": "NFC"},
             pre_tokenizer={"type": "Sequence", "pretokenizers": [split(), BYTELEVEL]},
             post_processor=None, decoder=BYTELEVEL, model=bpe)
    d.update(more)
    return d


def token(content, special=False, **flags):
    return dict(dict(content=content, single_word=False, lstrip=False, rstrip=False,
                     normalized=False, special=special), **flags)


def dump(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write(name, value):
    with open(os.path.join(OUT, name), "w", encoding="utf-8") as f:
        f.write(json.dumps(value, ensure_ascii=True, indent=0, separators=(",", ":")) + "\n")


# ---- added.json: flags of added tokens, over random texts ----------------------

CONTENTS = ["<a>", "<ab>", "<a><b>", "ab", "abc", "b c", " <s>", "<s> ", "\u00e9", "e\u0301x",
            "\u212b", "<\u212b>", "\n", "\n\n", "\ud55c", "\u1112\u1161\u11ab!", "<|x|>", "a", "_w",
            "word", "\u0301", "'s", "3", "q\u0323\u0307", "\u3000z", "\U0001f600"]
BETWEEN = [" ", "  ", "\t", "\n", "\r\n", "\u3000", "\u00a0", "\u2028", "\u0085", "a", "b", "ab",
           " ab", "abc", "c", "w", "_", "-", ".", "7", "e", "\u0301", "\u0323", "\u200d", "\u1112",
           "\u1161", "\u11ab", "\u00e9", "\u212b", "\u4e2d", "\u0915", "\u093c", "\u093e", "\u180e",
           "\U0001d400", "\U00011380", "\U0001f600", "'S", "", "<", ">", "<a", "|"]


def added_tokens(rng):
    tokens = []
    for content in rng.sample(CONTENTS, rng.randint(1, 7)):
        flag = lambda p: rng.random() < p
        tokens.append(token(content, flag(0.4), normalized=flag(0.5), lstrip=flag(0.3),
                            rstrip=flag(0.3), single_word=flag(0.3)))
    return tokens


def random_text(rng, tokens):
    parts = []
    for _ in range(rng.randint(1, 14)):
        parts.append(rng.choice(tokens)["content"] if rng.random() < 0.45 else rng.choice(BETWEEN))
    return "".join(parts)


def answers(make, text):
    """ids, ids with special tokens as plain text; None where the reference itself fails."""
    try:
        t = make()
        ids = t.encode(text, add_special_tokens=False).ids
        t.encode_special_tokens = True
        return ids, t.encode(text, add_special_tokens=False).ids
    except BaseException as e:
        if "bad split" in str(e):
            return None
        raise


def make_added():
    rng = random.Random(8)
    whole = dump(file(added_tokens=["HERE"]))
    head, tail = whole.split('"HERE"')
    cases = []
    while len(cases) < 120:
        tokens = added_tokens(rng)
        first = Tokenizer.from_str(dump(file(added_tokens=[dict(t, id=1000 + i)
                                                           for i, t in enumerate(tokens)])))
        listed = json.loads(first.to_str())["added_tokens"]  # with the ids that it gave
        order = {t["content"]: i for i, t in enumerate(tokens)}
        listed.sort(key=lambda t: order[t["content"]])
        text = dump(listed)[1:-1]
        make = lambda: Tokenizer.from_str(head + text + tail)
        found = []
        while len(found) < 6:
            sample = random_text(rng, tokens)
            got = answers(make, sample)
            if got is not None:
                found.append([sample, got[0], got[1], make().decode(got[0], False),
                              make().decode(got[0], True)])
        cases.append(dict(added=text, texts=found))
    write("added.json", dict(head=head, tail=tail, cases=cases))


# ---- variants.json: forms of tokenizer.json that tokenizers takes ----------------

TEXTS = ["", "abc ab\n\nword words cc", "e\u0301 \u212b \u1112\u1161\u11ab", "<|x|> <x>ab<|end|>",
         "ab <|im_end|> \u00e9<think>word <|endoftext|>\n<pad>", " a  ab 'S 12"]


def template(*single, **ids):
    return dict(type="TemplateProcessing",
                single=[{"Sequence": {"id": "A", "type_id": 0}} if s == "A"
                        else {"SpecialToken": {"id": s, "type_id": 0}} for s in single],
                pair=[{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                special_tokens={k: dict(id=k, ids=v, tokens=[k] * len(v)) for k, v in ids.items()})


def variants():
    end = [dict(token("<|end|>", True), id=265), dict(token("<|x|>", True), id=266)]
    pairs = [m.split(" ") for m in MERGES]
    words = dict(base_vocab(), **{"words": 265, "\u0120word": 266})
    yield "merges are pairs", file(dict(merges=pairs))
    yield "no merges", file(dict(merges=[]))
    yield "no added tokens", {k: v for k, v in file().items() if k != "added_tokens"}
    yield "byte fallback", file(dict(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    yield "dropout 0", file(dict(dropout=0.0))
    yield "merges that make no difference", file(dict(ignore_merges=True))
    yield "words that no merge makes", file(dict(ignore_merges=True, vocab=words))
    yield "an added token is no word of the model", file(
        dict(ignore_merges=True), added_tokens=[dict(token("word", True, single_word=True), id=264),
                                                dict(token("words", single_word=True), id=265)])
    yield "no normalizer", file(normalizer=None)
    yield "a sequence of one normalizer", file(
        normalizer=dict(type="Sequence", normalizers=[{"type": "NFC"}]))
    yield "a sequence of no normalizer", file(normalizer=dict(type="Sequence", normalizers=[]))
    yield "a token of raw text without normalizer", file(
        normalizer=None, added_tokens=[dict(token("e\u0301", normalized=True), id=265)])
    for more in [dict(invert=True), dict(behavior="Removed", invert=True)]:
        yield f"split {more}", file(pre_tokenizer=dict(type="Sequence",
                                                       pretokenizers=[split(**more), BYTELEVEL]))
    yield "post-processor ByteLevel", file(post_processor=dict(BYTELEVEL, trim_offsets=True))
    yield "post-processor of the text alone", file(post_processor=template("A"))
    yield "post-processor with an end", file(
        added_tokens=end, post_processor=template("A", "<|end|>", **{"<|end|>": [265]}))
    yield "post-processor with both", file(
        added_tokens=end, post_processor=template(
            "<|x|>", "A", "<|end|>", "<|x|>", **{"<|end|>": [265], "<|x|>": [266, 5]}))
    yield "post-processors in sequence", file(
        added_tokens=end, post_processor=dict(type="Sequence", processors=[
            BYTELEVEL, template("<|x|>", "A", "<|end|>", **{"<|end|>": [265], "<|x|>": [266]})]))
    yield "ids that tokenizers gives others", file(
        added_tokens=[dict(token("<x>"), id=400), dict(token("ab"), id=401),
                      dict(token("<|x|>", True), id=9)])
    yield "a token twice", file(added_tokens=[dict(token("<x>"), id=265),
                                              dict(token("<x>", rstrip=True), id=266)])


def make_variants():
    cases = []
    for name, value in variants():
        text = dump(value)
        t = Tokenizer.from_str(text)
        cases.append(dict(name=name, file=text,
                          texts=[[s, t.encode(s).ids, t.encode(s, add_special_tokens=False).ids]
                                 for s in TEXTS]))
    write("variants.json", cases)


# ---- folders.json: files as Transformers reads them ------------------------------

def named(d):
    return {str(265 + i): t for i, t in enumerate(d)}


def folders():
    """name, {file: content}; the vocabulary is added to each."""
    im = [token("<|endoftext|>", True), token("<|im_start|>", True), token("<|im_end|>", True)]
    older = {"vocab.json": dump(base_vocab()),
             "merges.txt": "#version: 0.2\n" + "\n".join(MERGES) + "\n"}
    config = lambda **k: {"tokenizer_config.json": dump(dict(tokenizer_class="Qwen2Tokenizer", **k))}
    decoder = config(added_tokens_decoder=named(im + [token("<think>")]), eos_token="<|im_end|>",
                     pad_token="<|endoftext|>", bos_token=None, unk_token=None)
    yield "vocab and merges alone", older
    yield "merges without version and newline", dict(
        older, **{"merges.txt": "\n".join(MERGES)})
    yield "merges with carriage returns", dict(
        older, **{"merges.txt": "#version: 0.2\r\n" + "\r\n".join(MERGES) + "\r\n"})
    yield "added_tokens_decoder", dict(older, **decoder)
    yield "added_tokens_decoder with flags", dict(older, **config(
        added_tokens_decoder=named([token("<|endoftext|>", True), token("<think>", lstrip=True),
                                    token("<pad>", rstrip=True, normalized=True),
                                    token("ab", single_word=True)])))
    yield "added_tokens_decoder out of order", dict(older, **config(
        added_tokens_decoder=dict(reversed(named(im).items()))))
    yield "named tokens that are not listed", dict(older, **config(
        added_tokens_decoder=named(im), pad_token="<pad>",
        additional_special_tokens=["<think>", "<|im_start|>"]))
    yield "a named token of the vocabulary", dict(older, **config(eos_token="word"))
    yield "added_tokens.json", dict(older, **{"added_tokens.json": dump(
        {"<|endoftext|>": 265, "<|im_end|>": 266, "<think>": 267})})
    yield "added_tokens.json and the names of the configuration", dict(
        older, **config(eos_token="<|im_end|>", additional_special_tokens=["<think>"]),
        **{"added_tokens.json": dump({"<|endoftext|>": 265, "<|im_end|>": 266, "<think>": 267})})
    yield "added_tokens.json and special_tokens_map.json", dict(
        older, **config(eos_token="<think>"),
        **{"added_tokens.json": dump({"<|endoftext|>": 265, "<|im_end|>": 266, "<think>": 267}),
           "special_tokens_map.json": dump(dict(
               eos_token=token("<|im_end|>", True), pad_token="<|endoftext|>",
               additional_special_tokens=["<pad>"]))})
    yield "special_tokens_map.json beside added_tokens_decoder", dict(
        older, **decoder, **{"special_tokens_map.json": dump(dict(eos_token="word")),
                             "added_tokens.json": dump({"<pad>": 269})})
    yield "special tokens are split", dict(older, **config(
        added_tokens_decoder=named(im), split_special_tokens=True))
    yield "a token for the beginning", dict(older, **config(
        added_tokens_decoder=named(im), bos_token="<|im_start|>", add_bos_token=True))
    yield "tokens for both ends", dict(older, **config(
        added_tokens_decoder=named(im), bos_token="<|im_start|>", add_bos_token=True,
        eos_token="<|im_end|>", add_eos_token=True))
    yield "a beginning that has no token", dict(older, **config(
        added_tokens_decoder=named(im), bos_token=None, add_bos_token=True))
    newer = {"tokenizer.json": dump(file(added_tokens=[dict(t, id=265 + i)
                                                       for i, t in enumerate(im)]))}
    yield "tokenizer.json alone", newer
    yield "tokenizer.json and named tokens", dict(newer, **config(
        eos_token="<|im_end|>", pad_token="<pad>", image_token="<think>"))
    yield "tokenizer.json and a decoder with other flags", dict(newer, **config(
        added_tokens_decoder=named(im[:2] + [token("<|im_end|>", False, lstrip=True),
                                             token("<think>", normalized=True)])))


def make_folders():
    cases = []
    for name, files in folders():
        with tempfile.TemporaryDirectory() as where:
            for f, content in files.items():
                with open(os.path.join(where, f), "w", encoding="utf-8", newline="") as out:
                    out.write(content)
            t = Qwen2Tokenizer.from_pretrained(where)
            texts = []
            for s in TEXTS:
                ids = t(s)["input_ids"]
                plain = t(s, add_special_tokens=False)["input_ids"]
                texts.append([s, ids, plain, t.decode(plain, skip_special_tokens=True)])
        cases.append(dict(name=name, files=files, texts=texts))
    write("folders.json", cases)


# ---- unicode.json: every code point, alone and beside others ---------------------

def code_points(first=0, end=0x110000):
    return [c for c in range(first, end) if not 0xd800 <= c < 0xe000]


def runs(values):
    """[how many code points, their value], until all are covered but surrogates."""
    out = []
    for v in values:
        if out and out[-1][1] == v:
            out[-1][0] += 1
        else:
            out.append([1, v])
    return out


# What the split regex makes of a code point shows in where it joins: a letter, a number, white
# space, a line's end, any other, and the one more that a contraction may have.
SPLIT_PLACES = [("a", "a"), (".", "."), ("b'", "b")]

# What NFC makes of it, in what it does alone, behind and before characters of several classes, and
# behind half a Hangul syllable.
NORMAL_PLACES = [("", ""), ("a", "\u0323"), ("a", "\u0301"), ("\u00ea", "\u0301"), ("\u0915", "\u093c"),
                 ("", "\u0338"), ("\uac00", "\u11a8"), ("\u1100", ""), ("a", "\u0334")]


def split_shapes():
    pre = Tokenizer.from_str(dump(file())).pre_tokenizer
    for c in code_points():
        cuts = (pre.pre_tokenize_str(before + chr(c) + after) for before, after in SPLIT_PLACES)
        yield " ".join("".join(str(end - start) for _, (start, end) in cut) for cut in cuts)


def fnv(data):
    h = 0xcbf29ce484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return f"{h:016x}"


def normal_forms():
    """Of every 256 code points: a hash of their normal forms in all places, each with a newline
    behind it; left out where none of these texts changes."""
    normalizer = Tokenizer.from_str(dump(file())).normalizer
    for first in range(0, 0x110000, 256):
        text = "".join(before + chr(c) + after + "\n" for c in code_points(first, first + 256)
                       for before, after in NORMAL_PLACES)
        normal = normalizer.normalize_str(text)
        if normal != text:
            yield [first, fnv(normal.encode())]


def beside_token(**flags):
    t = Tokenizer.from_str(dump(file(added_tokens=[dict(token("<m>", **flags), id=265)])))
    return [e.ids for e in t.encode_batch([chr(c) + "<m>" for c in code_points()])]


def word_runs():
    return runs(int(ids[-1] != 265) for ids in beside_token(single_word=True))


def make_unicode():
    shapes = list(split_shapes())
    kinds = sorted(set(shapes))
    write("unicode.json", dict(
        kinds=kinds, split=runs(kinds.index(s) for s in shapes), word=word_runs(),
        space=runs(int(ids == [265]) for ids in beside_token(lstrip=True)),
        split_places=SPLIT_PLACES, normal_places=NORMAL_PLACES, normal=list(normal_forms())))


def print_words():
    """The table of src/text/word.c."""
    points, at = code_points(), 0
    for n, word in word_runs():
        if word:
            print(f"{{ 0x{points[at]:04x}, 0x{points[at + n - 1]:04x} }},")
        at += n


if __name__ == "__main__":
    if sys.argv[1:] == ["words"]:
        print_words()
        sys.exit()
    os.makedirs(OUT, exist_ok=True)
    make_added()
    make_variants()
    make_folders()
    make_unicode()
