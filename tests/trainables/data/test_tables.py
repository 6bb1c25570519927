"""CSV and Parquet files and data frames as fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foldrace.errors import DataError
from foldrace.trainables.data.datasets import load_dataset
from foldrace.trainables.data.readers import parts_of, read_npz
from foldrace.trainables.data.sample import BY_NAME, Wanted
from foldrace.trainables.data.tables import read_csv, read_parquet

COUNT = 20
FRAME = pd.DataFrame(
    {
        "age": np.arange(COUNT),
        "bmi (kg)": np.linspace(0, 1, COUNT),
        "city": ["Rome", "Oslo"] * (COUNT // 2),
        "price": np.arange(COUNT) / 3,
        "day": pd.date_range("2024-01-01", periods=COUNT).astype(str),
        "test_site": ["a"] * COUNT,
    }
)


def read(frame: pd.DataFrame, wanted: Wanted = BY_NAME):
    return parts_of("mine", frame, "-", wanted)


def roles(**named: str) -> Wanted:
    return Wanted(roles=named)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_is_columns_by_name(tmp_path, suffix):
    path = tmp_path / f"table.{suffix}"
    write = FRAME.to_csv if suffix == "csv" else FRAME.to_parquet
    write(path, index=False)
    data = load_dataset(str(path), wanted=roles(target="price", time="day"), data_dir=tmp_path)
    assert len(data) == 18 and data.test_count == 2
    x = data.training["x"]
    assert x.dtype == np.float32 and x.shape == (18, 2)
    np.testing.assert_array_equal(x[:, 0], np.arange(18))
    assert data.training["price"].dtype == np.float32
    assert data.names["city"] == ("Oslo", "Rome") and data.training["city"][:2].tolist() == [1, 0]
    assert data.training["day"].dtype == np.int64  # the last days are held out
    assert data.training["day"].max() < data.test["day"].min()
    assert data.notes == ("x holds 2 columns: age, bmi (kg)",)
    assert "test_site" in data.training, "a column's name names no part"


def test_inputs_are_stacked_in_the_order_of_the_sweep_file(caplog):
    parts = read(FRAME, Wanted(("price", "age"), {"target": "city"}))
    assert parts.notes == ("x holds 2 columns: price, age",)
    assert parts.training["x"][3].tolist() == [1.0, 3.0]
    assert "columns that are not read: bmi (kg), day, test_site" in caplog.text


def test_a_column_with_a_role_keeps_its_values_under_a_usable_name(caplog):
    parts = read(FRAME, roles(target="bmi (kg)"))
    assert parts.roles.target == "bmi__kg_" and "bmi__kg_" in parts.training
    assert "the column bmi (kg) is the field bmi__kg_" in caplog.text


def test_lists_are_sequences_and_whole_targets_classes():
    frame = pd.DataFrame({"tokens": [list(range(i % 4 + 1)) for i in range(8)], "y": [0, 1] * 4})
    parts = read(frame)
    assert parts.training["tokens"].lengths.tolist() == [1, 2, 3, 4] * 2
    assert parts.training["y"].dtype == np.int64


def test_parts_may_be_frames_of_their_own():
    parts = parts_of("mine", {"test": FRAME[15:], "train": FRAME[:15]}, "-")
    assert len(parts) == 15 and len(parts.test["x"]) == 5
    with pytest.raises(DataError, match="a part has no column age"):
        parts_of("mine", {"test": FRAME.drop(columns="age"), "train": FRAME}, "-")


def test_a_bunch_is_x_and_y_with_the_names_of_its_classes():
    from sklearn.datasets import load_iris

    parts = parts_of("mine", load_iris(), "-")
    assert parts.names == {"y": ("setosa", "versicolor", "virginica")}
    framed = parts_of("mine", load_iris(as_frame=True), "-")
    np.testing.assert_array_equal(framed.training["y"], parts.training["y"])
    np.testing.assert_allclose(framed.training["x"], parts.training["x"])


def test_missing_values_are_named(caplog):
    frame = FRAME.assign(age=FRAME["age"].where(FRAME["age"] > 2), city=[None, *["a"] * 19])
    parts = read(frame)
    assert "values are missing, and are nan or an empty text: age (3), city (1)" in caplog.text
    assert np.isnan(parts.training["x"]).sum() == 3 and parts.names["city"] == ("", "a")


@pytest.mark.parametrize(
    ("frame", "wanted", "said"),
    [
        (FRAME, roles(target="prise"), "has no column prise.*price"),
        (FRAME, roles(target="price", weight="price"), "price has two roles"),
        (FRAME, roles(weight="city"), "city, the weight, is text.*numbers"),
        (FRAME, roles(time="city"), "city holds no moments in time"),
        (FRAME.assign(y=[np.nan, *range(19)]), BY_NAME, "y, the target, is missing in 1 rows"),
        (FRAME.assign(z=1j), BY_NAME, "column z is of complex numbers"),
        (FRAME.assign(z=[object()] * COUNT), BY_NAME, "column z holds object"),
        (FRAME[:0], BY_NAME, "without rows"),
        (FRAME.assign(x="a"), BY_NAME, "columns x"),
        (pd.DataFrame([[1, 2]] * 3, columns=["a", "a"]), BY_NAME, "two columns a"),
        (FRAME[["price"]], roles(target="price"), "has no input"),
        (FRAME.assign(weight=-1.0), BY_NAME, "must not be negative"),
    ],
)
def test_what_cannot_be_used_is_one_line(frame, wanted, said):
    with pytest.raises(DataError, match=said) as caught:
        read(frame, wanted)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_damaged_file_is_one_line(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(str(path), data_dir=tmp_path)


def test_a_sparse_matrix_is_refused_with_the_way_out():
    import scipy.sparse

    with pytest.raises(DataError, match=r"sparse matrix.*toarray"):
        parts_of("mine", {"x": scipy.sparse.eye(20).tocsr(), "y": list(range(20))}, "-")


def test_an_index_with_a_name_is_a_column_and_one_value_too_many_an_error(tmp_path, caplog):
    frame = pd.DataFrame(
        {"a": range(20), "y": [0, 1] * 10}, index=pd.Index(range(20), name="time")
    )
    frame.to_parquet(tmp_path / "named.parquet")
    parts = read_parquet(str(tmp_path / "named.parquet"))
    assert parts.roles.time == "time" and parts.training["time"].tolist() == list(range(20))
    (tmp_path / "more.csv").write_text("a,b,y\n" + "1,2,0,9\n" * 9)
    with pytest.raises(DataError, match=r"more\.csv: cannot be read: ParserWarning"):
        read_csv(str(tmp_path / "more.csv"))
    pd.DataFrame({"a": [2**24 + 1] * 9, "y": range(9)}).to_csv(tmp_path / "ids.csv", index=False)
    read_csv(str(tmp_path / "ids.csv"))
    assert "a has whole numbers that float32 rounds" in caplog.text


def test_a_split_of_parts_and_a_date_that_is_missing_are_refused(tmp_path):
    x = np.zeros((6, 2))
    np.savez(tmp_path / "split.npz", x=x, split=["train"] * 4 + ["test"] * 2)
    with pytest.raises(DataError, match="holds the name of a part, test, and not of a fold"):
        read_npz(str(tmp_path / "split.npz"))
    dates = np.array(["2024-01-01"] * 5 + ["NaT"], "datetime64[D]")
    np.savez(tmp_path / "nat.npz", x=x, time=dates)
    with pytest.raises(DataError, match="time has 1 missing dates"):
        read_npz(str(tmp_path / "nat.npz"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.1,0,0.1\n0.2,1,3\n", "its first line holds numbers instead of names: 0.1, 0, 0.1"),
        ("a;b;y\n1;2;3\n", "separate columns by commas, not by ';'"),
        ("a\tb\n1\t2\n", "separate columns by commas, not by"),
        ("a,target\n1,2\n3,1e300\n", "target holds 1e[+]300, which float32 cannot hold"),
        ("a,b\n1,2\n3,1e300\n", "b holds 1e[+]300, which float32 cannot hold"),
        (f"a\n{2**70}\n{2**71}\n", "a holds whole numbers beyond 64 bits; write them as texts"),
    ],
)
def test_what_a_table_cannot_mean_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        read_csv(str(tmp_path / "t.csv"))


def test_blanks_beside_commas_belong_to_no_name_and_no_value(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a, b, target\n1, 2, yes\n3, 4, no\n5, 6, yes\n")
    parts = read_csv(str(tmp_path / "t.csv"))
    assert parts.notes == ("x holds 2 columns: a, b",) and parts.roles.target == "target"


@pytest.mark.parametrize("names", ["0,1,2", "1,2,3", "label,0,1"])
def test_counted_columns_are_names(tmp_path: Path, names: str) -> None:
    (tmp_path / "t.csv").write_text(f"{names}\n5,6,7\n8,9,10\n")
    assert len(next(iter(read_csv(str(tmp_path / "t.csv")).training.values()))) == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [(["1", "2", "oops", "4"], "'oops' in row 3"), (["1,000", "2,000"], "'1,000' in row 1")],
)
def test_texts_that_are_meant_as_numbers_are_named(
    tmp_path: Path, values: list[str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    pd.DataFrame({"a": values, "b": range(len(values))}).to_csv(tmp_path / "t.csv", index=False)
    read_csv(str(tmp_path / "t.csv"))
    assert "the column a is text" in caplog.text and said in caplog.text


def test_numbers_of_more_than_64_bits_are_refused() -> None:
    with pytest.raises(DataError, match="x must have at most 64 bits") as caught:
        parts_of("mine", {"x": np.ones((4, 2), np.longdouble)}, "-")
    assert "convert it to float64" in str(caught.value)


def test_many_whole_numbers_as_target_are_said_to_be_classes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fields = {"x": np.ones((200, 2), np.float32), "y": np.arange(200)}
    wanted = Wanted(None, {"target": "y"})
    parts_of("mine", fields, "-", wanted)
    assert "y, the target, holds 200 different whole numbers, taken as classes" in caplog.text
    caplog.clear()
    parts_of("mine", {**fields, "y": np.arange(200) % 40}, "-", wanted)
    parts_of("mine", {**fields, "y": np.arange(200.0)}, "-", wanted)
    assert "taken as classes" not in caplog.text
