"""Compares `quern template` with Transformers on any chat templates.

usage: check_templates.py QUERN FOLDER...   (pip install transformers jinja2 tokenizers)
Every *.jinja below the folders, with the requests of make_templates.py whose content is
text: what Transformers renders must come out, and what it refuses must be refused. Packages
that bring templates: trl, axolotl, vllm.
"""
import glob
import json
import os
import subprocess
import sys
import tempfile

from make_templates import CHATS, KEYS, answer, assistant, user

MORE = [
    [user("a"), user("b"), {"role": "system", "content": "late"}],
    [assistant("first"), user(" b\n"), assistant(" c ", reasoning_content=" r \n")],
]


def quern(program, folder, requests):
    lines = "".join(json.dumps(request, ensure_ascii=False) + "\n" for request in requests)
    done = subprocess.run([program, "template", "-m", folder], input=lines, capture_output=True, text=True,
                          encoding="utf-8", check=False)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.strip()


def check(program, path, counts):
    with open(path, encoding="utf-8") as f:
        template = f.read()
    requests = [dict(keys, messages=chat) for chat in CHATS + MORE for keys in KEYS
                if isinstance(chat[0]["content"], str)]
    answers = [answer(template, request) for request in requests]
    right = [(r, a) for r, a in zip(requests, answers) if a is not None]
    wrong = [r for r, a in zip(requests, answers) if a is None]
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "chat_template.jinja"), "w", encoding="utf-8") as f:
            f.write(template)
        with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
            json.dump({"bos_token": "<s>", "eos_token": "</s>"}, f)
        with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
            f.write("{}")
        got, error = quern(program, folder, [r for r, _ in right])
        for (request, want), text in zip(right, got):
            counts["equal" if text == want else "different"] += 1
            if text != want:
                print(f"{path}: {json.dumps(request)[:300]}\n  wanted {want!r}\n  got    {text!r}")
        if len(got) < len(right):
            counts["different"] += 1
            print(f"{path}: {json.dumps(right[len(got)][0])[:300]}: {error}")
        for request in wrong[::7]:  # a process each
            got, error = quern(program, folder, [request])
            counts["different" if got else "refused by both"] += 1
            if got:
                print(f"{path}: {json.dumps(request)[:300]}: Transformers refuses, quern renders {got[0]!r}")


def main():
    program, folders = sys.argv[1], sys.argv[2:]
    counts = {"equal": 0, "refused by both": 0, "different": 0}
    paths = sorted(path for folder in folders for path in glob.glob(os.path.join(folder, "**", "*.jinja"), recursive=True))
    for path in paths:
        check(program, path, counts)
    print(f"{len(paths)} templates: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    return 1 if counts["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
