"""Reference answers of Qwen3's tokenizer and chat template: qwen3-tokenizer/vectors.json.

pip install tokenizers transformers jinja2; run in this folder. The inputs are those that
the file has (add one with empty answers to get more); every answer is computed again:
encode, ids of a text by tokenizers, and its text back without special tokens; decode, the
text of ids; chat, the prompt that Transformers makes. The file is the same byte for byte.
"""
import json
import lzma
import os

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "qwen3-tokenizer")


def load():
    with lzma.open(os.path.join(FOLDER, "tokenizer.json.xz"), "rt", encoding="utf-8") as f:
        tokenizer = Tokenizer.from_str(f.read())
    with open(os.path.join(FOLDER, "tokenizer_config.json"), encoding="utf-8") as f:
        template = json.load(f)["chat_template"]
    return tokenizer, PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template)


def encoded(tokenizer, text):
    ids = tokenizer.encode(text).ids
    return {"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)}


def decoded(tokenizer, ids):
    return {"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False),
            "text_skip_special": tokenizer.decode(ids, skip_special_tokens=True)}


def rendered(chat_tokenizer, case):
    case = {key: value for key, value in case.items() if key != "rendered"}
    given = {key: value for key, value in case.items() if value is not None and key != "messages"}
    return dict(case, rendered=chat_tokenizer.apply_chat_template(case["messages"], tokenize=False, **given))


def main():
    path = os.path.join(FOLDER, "vectors.json")
    tokenizer, chat_tokenizer = load()
    with open(path, encoding="utf-8") as f:
        vectors = json.load(f)
    answers = {
        "encode": [encoded(tokenizer, case["text"]) for case in vectors["encode"]],
        "decode": [decoded(tokenizer, case["ids"]) for case in vectors["decode"]],
        "chat": [rendered(chat_tokenizer, case) for case in vectors["chat"]],
    }
    with open(path, "w", encoding="utf-8") as f:
        json.dump(answers, f, ensure_ascii=False, indent=0)


main()
