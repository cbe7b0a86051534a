"""Files of published norms are read without being told their columns, and what is not known is said."""

from pathlib import Path

import pytest

from affectome.analyses.norm_formats import complete, recognise
from affectome.analyses.norms import read_norm
from affectome.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {"russell-mehrabian": "russell_mehrabian_1977.csv", "glasgow": "glasgow_norms_2019.csv"}

WARRINER = (
    ",Word,V.Mean.Sum,V.SD.Sum,V.Rat.Sum,A.Mean.Sum,A.SD.Sum,A.Rat.Sum,D.Mean.Sum,D.SD.Sum,D.Rat.Sum\n"
    "1,aardvark,6.26,2.21,19,2.41,1.4,22,4.27,1.75,15\n2,null,4.1,1,20,3.2,1,20,5,1,20\n3,sad,2.1,1,20,3.49,1,20,3.8,1,20\n"
)
GLASGOW = (
    "Words,Length,AROU,,,VAL,,,DOM,,,CNC,,\n,,M,SD,N,M,SD,N,M,SD,N,M,SD,N\n"
    '"sad",3,3.1,1.8,35,2.0,1.1,34,3.0,1.5,32,2.9,1.8,35\nbow (ribbon),3,3.9,1.9,35,6.2,1.1,34,5.0,1.5,32,5.9,1.8,35\n'
)
NRC = '{header}aardvark\t0.427\t0.490\t0.437\na bit sad\t0.2\t0.3\t0.4\nsad\t0.225\t0.333\t0.149\n"tis\t0.5\t0.5\t0.5\n'
CASES = {
    "warriner": (WARRINER, "warriner", ("aardvark", "null", "sad"), (2.1, 3.49, 3.8)),
    "glasgow": (GLASGOW, "glasgow", ("sad", "bow (ribbon)"), (2.0, 3.1, 3.0)),
    "nrc 1": (NRC.format(header="Word\tValence\tArousal\tDominance\n"), "nrc-vad", None, (0.225, 0.333, 0.149)),
    "nrc 1, bare": (NRC.format(header=""), "nrc-vad", None, (0.225, 0.333, 0.149)),
    "nrc 2": (NRC.format(header="term\tvalence\tarousal\tdominance\n"), "nrc-vad", None, (0.225, 0.333, 0.149)),
    "plain": ("emotion;Valence;Arousal;x;x\nsad;-3;120;1;1\nglad;1;2;1;1\n", "plain", ("sad", "glad"), (-3, 120)),
}


def written(folder: Path, content: str, encoding: str = "utf-8") -> Path:
    file = folder / "norm.txt"
    file.write_text(content, encoding=encoding)
    return file


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_published_norms_are_recognised(tmp_path: Path, case: str, encoding: str) -> None:
    content, norm, words, sad = CASES[case]
    file = written(tmp_path, content, encoding)
    assert recognise(file).norm == norm
    for columns in ({}, {"word": None, "valence": None, "arousal": None, "dominance": None}):
        ratings = read_norm(file, columns)
        assert ratings.index.tolist() == list(words or ("aardvark", "a bit sad", "sad", '"tis'))
        assert list(ratings.columns) == ["valence", "arousal", "dominance"][: len(sad)]
        # Whatever the range: ratings are not touched.
        assert ratings.loc["sad"].tolist() == list(sad)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_norms_are_recognised_as_config_names_them(name: str) -> None:
    file = ROOT / "resources" / "norms" / SHIPPED[name]
    assert recognise(file).norm == name
    dimensions = (
        {"valence": "P_mean", "arousal": "A_mean", "dominance": "D_mean"}
        if name == "russell-mehrabian"
        else {"valence": "valence_M", "arousal": "arousal_M", "dominance": "dominance_M"}
    )
    assert read_norm(file, {}).equals(read_norm(file, {"word": "emotion", **dimensions}))


def test_names_that_are_given_stand(tmp_path: Path) -> None:
    file = written(tmp_path, WARRINER)
    other = read_norm(file, {"word": "Word", "valence": "A.Mean.Sum", "arousal": "V.Mean.Sum", "dominance": None})
    assert list(other.columns) == ["valence", "arousal"]
    assert other.loc["sad"].tolist() == [3.49, 2.1]
    # The word's column alone is named, and a dimension alone: the rest is recognised.
    assert read_norm(file, {"word": "Word"}).loc["sad"].tolist() == [2.1, 3.49, 3.8]
    assert read_norm(file, {"valence": "V.SD.Sum"}).loc["aardvark"].tolist() == [2.21, 2.41, 4.27]
    # Names of one dimension alone leave out the others, as they always did.
    assert list(read_norm(file, {"word": "Word", "valence": "V.Mean.Sum"}).columns) == ["valence"]
    two_rows = read_norm(written(tmp_path, GLASGOW), {"word": "Words", "valence": "CNC M", "arousal": "AROU M"})
    assert two_rows.loc["sad"].tolist() == [2.9, 3.1]
    tabs = written(tmp_path, NRC.format(header="term\tvalence\tarousal\tdominance\n"))
    swapped = {"word": "term", "valence": "dominance", "arousal": "arousal"}
    assert read_norm(tabs, swapped).loc["sad"].tolist() == [0.149, 0.333]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n\n",
        "Wort,Valenz,Erregung\ntraurig,1,2\n",
        "word,valence\nsad,1\n",
        "valence,arousal\n1,2\n",
        # Numbers that are no ratings of NRC VAD, or too many.
        "sad\t1\t2\t3\nglad\t0.1\t0.2\t0.3\n",
        "sad\t0.1\t0.2\t0.3\t0.4\n",
        "Words,Length,AROU,,\n,,M,SD,N\n",
        "\x00\x01\x02\n",
    ],
)
def test_what_is_not_recognised_is_said_in_one_line(tmp_path: Path, content: str) -> None:
    file = written(tmp_path, content)
    assert recognise(file) is None
    with pytest.raises(
        UserError, match=r"is no norm that is recognised; its first line is .*; name its columns"
    ) as told:
        read_norm(file, {})
    assert len(str(told.value).splitlines()) == 1


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        recognise(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match="cannot be read"):
        read_norm(tmp_path, {})


def test_recognised_files_can_be_unusable_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rates sad more than once"):
        read_norm(written(tmp_path, WARRINER + "4,sad,1,1,1,1,1,1,1,1,1\n"), {})
    with pytest.raises(UserError, match="could not convert"):
        read_norm(written(tmp_path, WARRINER + "4,glad,high,1,1,1,1,1,1,1,1\n"), {})
    with pytest.raises(UserError, match="no column 'V'"):
        read_norm(written(tmp_path, WARRINER), {"valence": "V"})


def test_words_match_as_they_are_written(tmp_path: Path) -> None:
    file = written(tmp_path, "word,valence,arousal\nSad,1,2\nsad,3,4\nNA,5,6\nnan,7,8\nnone,.,NA\n")
    ratings = read_norm(file, {})
    assert ratings.index.tolist() == ["Sad", "sad", "NA", "nan"]
    assert complete(file, {}).columns == ("word", "valence", "arousal")
