"""Turns the published files of WikiText-2 and SST-2 into those that qslm reads.

    python datasets.py wikitext validation-00000-of-00001.parquet valid.txt    # Hugging Face: wikitext, wikitext-2-v1
    python datasets.py wikitext wiki.valid.tokens valid.txt                    # the original archive
    python datasets.py sst2 validation-00000-of-00001.parquet dev.tsv          # Hugging Face: glue, sst2
    python datasets.py sst2 SST-2/dev.tsv dev.tsv                              # GLUE's archive

A text is one line per paragraph, as WikiText has it, with its `<unk>`. Labelled sentences are lines of `sentence TAB label`,
without GLUE's line of titles.
"""

import argparse
import sys

import pandas


def wikitext(source: str) -> str:
    """The paragraphs of a text, a line each."""
    if not source.endswith(".parquet"):
        with open(source, encoding="utf-8", newline="") as file:
            return file.read()
    rows = pandas.read_parquet(source, columns=["text"])["text"]
    # Parquet has "" for what is a line of one space in the original.
    return "".join(row if row.strip() else " \n" for row in rows)


def sst2(source: str) -> str:
    """Sentences with their labels, a line each."""
    if source.endswith(".parquet"):
        rows = pandas.read_parquet(source, columns=["sentence", "label"])
    else:
        rows = pandas.read_csv(source, sep="\t", quoting=3, keep_default_na=False)
    if not rows["label"].isin([0, 1]).all():
        sys.exit(f"{source}: labels beyond 0 and 1: the test split has none that are known")
    return "".join(f"{sentence.strip()}\t{label}\n" for sentence, label in zip(rows["sentence"], rows["label"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=["wikitext", "sst2"])
    parser.add_argument("source")
    parser.add_argument("target")
    given = parser.parse_args()
    text = {"wikitext": wikitext, "sst2": sst2}[given.dataset](given.source)
    with open(given.target, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    print(f"{given.target}: {text.count(chr(10))} lines")


if __name__ == "__main__":
    main()
