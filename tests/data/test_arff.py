"""ARFF and XML files of MULAN."""

import numpy as np
import pytest

from reeltag.data.arff import read_mulan
from reeltag.errors import ManifestError

SPACE = "http://mulan.sourceforge.net/labels"
XML = f'<?xml version="1.0"?><labels xmlns="{SPACE}"><label name="sea"/><label name="a b"/></labels>'
HEADER = """@relation r
% a remark
@attribute x numeric
@ATTRIBUTE 'a b' {0,1}
@attribute y REAL
@attribute sea {0, 1}
@data
"""


@pytest.fixture
def read(tmp_path):
    def write_and_read(rows, header=HEADER, xml=XML):
        (tmp_path / "s.arff").write_text(header + rows)
        (tmp_path / "s.xml").write_text(xml)
        return read_mulan(tmp_path / "s.arff", tmp_path / "s.xml")

    return write_and_read


def test_labels_come_in_the_order_of_the_xml_and_features_in_that_of_the_file(read):
    found = read("1.5,1,-2e1,0\n\n0.5,0,3,1\n")
    assert found.label_names == ["sea", "a b"]
    np.testing.assert_array_equal(found.features, np.array([[1.5, -20], [0.5, 3]], dtype=np.float32))
    np.testing.assert_array_equal(found.targets, [[False, True], [True, False]])


def test_sparse_rows_and_missing_values(read):
    found = read("{0 4, 3 1}\n{}\n?,0,2,0\n")
    np.testing.assert_array_equal(found.features, [[4, 0], [0, 0], [2, 2]])  # ? is the mean of 4 and 0
    np.testing.assert_array_equal(found.targets, [[True, False], [False, False], [False, False]])


@pytest.mark.parametrize(
    ("rows", "header", "xml", "message"),
    [
        ("1,2\n", HEADER, XML, r"line 8: 2 values for 4 attributes"),
        ("1,x,2,0\n", HEADER, XML, r"line 8: could not convert"),
        ("{9 1}\n", HEADER, XML, r"line 8: list assignment index"),
        ("1,2,3,0\n", HEADER, XML, r"a label is neither 0 nor 1"),
        ("", HEADER, XML, r"no row after @data"),
        ("1,0,3,0\n", HEADER, XML.replace("sea", "lake"), r"label 'lake' is no attribute"),
        ("1,0,3,0\n", HEADER, "<labels></labels>", r"names no labels"),
        ("1,0,3,0\n", HEADER, "<labels", r"s.xml cannot be read"),
        ("1,0,3,0\n", HEADER.replace("REAL", "string"), XML, r"type 'string' are not read"),
        ("1,0,3,0\n", HEADER.replace("REAL", "{red, blue}"), XML, r"attribute 'y' is nominal"),
    ],
)
def test_what_cannot_be_read_is_said(read, rows, header, xml, message):
    with pytest.raises(ManifestError, match=message):
        read(rows, header, xml)
