from __future__ import annotations

import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from headwater.lab.data_frame import Table, joined

pyarrow = pytest.importorskip("pyarrow")
polars = pytest.importorskip("polars")
pandas = pytest.importorskip("pandas")


@pytest.fixture
def table() -> Table:
    return Table(
        {
            "variant": ["plain", "Abkürzung"],
            "seed": [0, 1],
            "gain_decades": [-math.inf, math.nan],
            "diverged": [False, True],
        }
    )


def test_every_library_reads_the_same_columns(table):
    arrow, frame, lazy = table.to_arrow(), table.to_pandas(), table.to_polars()
    assert arrow.column_names == list(frame.columns) == lazy.columns == list(table.column_names)
    assert arrow.column("variant").to_pylist() == list(frame["variant"]) == lazy["variant"].to_list()
    assert arrow.column("seed").to_pylist() == list(frame["seed"]) == lazy["seed"].to_list() == [0, 1]
    assert arrow.column("diverged").to_pylist() == list(frame["diverged"]) == lazy["diverged"].to_list()


def test_an_unknown_number_is_null_and_an_infinite_one_stays(table):
    assert table.to_arrow().column("gain_decades").to_pylist() == [-math.inf, None]
    assert table.to_polars()["gain_decades"].to_list() == [-math.inf, None]
    assert table.to_pandas()["gain_decades"].isna().tolist() == [False, True]


def test_other_libraries_read_the_stream_of_arrow(table):
    assert pyarrow.table(table).equals(table.to_arrow())
    assert polars.DataFrame(table).equals(table.to_polars())


def test_a_parquet_file_gives_the_same_table_back(table, tmp_path):
    path = tmp_path / "table.parquet"
    table.to_parquet(path)
    import pyarrow.parquet as parquet

    assert parquet.read_table(path).equals(table.to_arrow())


def test_it_survives_pickling_and_its_columns_cannot_be_written(table):
    again = pickle.loads(pickle.dumps(table))
    assert again == table
    assert again != Table({"a": [1]})
    with pytest.raises(ValueError, match="read-only"):
        table["seed"][0] = 7
    with pytest.raises(TypeError):
        table.columns["seed"] = np.zeros(2)


def test_what_it_is_made_of_is_copied():
    values = np.zeros(2)
    table = Table({"a": values})
    values[0] = 1.0
    assert table["a"].tolist() == [0.0, 0.0]


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one length"):
        Table({"a": [1], "b": [1, 2]})
    with pytest.raises(ValueError, match="one dimension"):
        Table({"a": [[1]]})


def test_a_column_that_is_not_there_is_named(table):
    with pytest.raises(KeyError, match="there are variant, seed"):
        table["loss"]


def test_an_empty_table_has_no_rows():
    assert len(Table({})) == 0
    assert Table({"a": []}).rows() == []
    assert Table({"a": []}).to_arrow().num_rows == 0


def test_joined_tables_keep_the_order_of_their_rows(table):
    assert joined([table, table])["seed"].tolist() == [0, 1, 0, 1]


def test_without_pyarrow_a_sentence_says_what_to_install():
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from headwater.lab.data_frame import Table\n"
        "try: Table({'a': [1]}).to_arrow()\n"
        "except ModuleNotFoundError as error: print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "this needs pyarrow, which is not installed: pip install pyarrow\n"
