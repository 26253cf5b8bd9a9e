"""Scripts are split where psql would send a statement."""

from __future__ import annotations

import pytest

from freshdb_service.postgres.provision.sql_statements import NoStatement, split

BODY = "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN 1 = 1 THEN 1 END; SELECT 2; END;"


def texts(script: str) -> list[str]:
    return [one.text for one in split(script)]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT ';';",
        "SELECT 'it''s; fine';",
        r"SELECT 'a\';",
        r"SELECT E'a\';b';",
        r"SELECT e'\\';",
        'SELECT ";""; ";',
        "SELECT $$;$$, $a$ $b$;$b$ $a$;",
        "SELECT 1 AS a$b$, ';';",
        "SELECT 1 /* ; /* ; */ ; */ + 1;",
        "SELECT 1 -- ;\n + 1;",
        "SELECT (1; 2);",
        "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);",
        BODY,
        "CREATE PROCEDURE p() BEGIN ATOMIC INSERT INTO t VALUES (1); END;",
        "DO $$ BEGIN PERFORM 1; END $$;",
        "COPY t TO 'file';",
        r"""INSERT INTO t (a, b) SELECT E'\\;\';', e'\';', 'y;\', nameE';', a$b$, $$;$$, "q;", -1 /* ; */ + 2 -- ;
        FROM (SELECT 1; SELECT 2) x WHERE n = $1;""",
        "SELECT 'ä;', $ä$;$ä$;",
    ],
)
def test_semicolon_inside_a_statement_does_not_end_it(statement: str) -> None:
    assert texts(f"SELECT 0; {statement}\n/* ; */ SELECT 2") == ["SELECT 0;", statement, "SELECT 2"]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", []),
        (" ;; -- nothing\n/* ; */ ;", []),
        ("BEGIN; COMMIT;", ["BEGIN;", "COMMIT;"]),
        ("CREATE FUNCTION f() AS 'x'; BEGIN; END;", ["CREATE FUNCTION f() AS 'x';", "BEGIN;", "END;"]),
        ("SELECT 'open; SELECT 2;", ["SELECT 'open; SELECT 2;"]),
        ("SELECT 1); SELECT 2;", ["SELECT 1);", "SELECT 2;"]),
        ("\ufeffSELECT 1;", ["SELECT 1;"]),
        ("\\restrict a1B2\nSELECT 1;\n\\unrestrict a1B2\n", ["SELECT 1;"]),
        ("SELECT 1;\r\n\\unrestrict a1B2\r\n", ["SELECT 1;"]),
    ],
)
def test_statements_are_split_as_psql_does(script: str, expected: list[str]) -> None:
    assert texts(script) == expected


def test_data_after_copy_is_kept_as_it_stands() -> None:
    rows = "1\tone; 'quote\n2\t\\restrict x\n3\t\\\\.\n"
    script = f"COPY public.t (a, b) FROM stdin; -- rows\n{rows}\\.\n\nSELECT 1;"
    copy, then = split(script)
    assert (copy.text, copy.copies, copy.data) == ("COPY public.t (a, b) FROM stdin;", "in", rows)
    assert script[copy.data_start :].startswith(rows)
    assert then.text == "SELECT 1;"
    assert script[then.start :] == "SELECT 1;"


@pytest.mark.parametrize(
    ("script", "data"),
    [
        ("copy t from stdin with (format csv);\n1,2", "1,2"),
        ("COPY t FROM STDIN;\r\n1\r\n\\.\r\nSELECT 1", "1\r\n"),
        ("COPY t FROM stdin;\n\\.\n", ""),
        ("COPY t FROM stdin", ""),
    ],
)
def test_data_ends_at_its_mark_or_with_the_script(script: str, data: str) -> None:
    assert next(split(script)).data == data


def test_copy_to_stdout_is_recognised() -> None:
    assert next(split("COPY (SELECT 1) TO stdout;")).copies == "out"


@pytest.mark.parametrize(
    ("script", "at"),
    [
        ("SELECT 1;\n\\connect other\n", 10),
        ("SELECT 1 \\g\n", 9),
        ("SELECT 1\n\\restrict abc\n", 9),
        ("\\restrict a b\n", 0),
        ("\\.\n", 0),
        ("COPY t FROM stdin; SELECT 1;\n", 18),
    ],
)
def test_text_that_is_no_sql_is_refused_at_its_place(script: str, at: int) -> None:
    with pytest.raises(NoStatement) as refused:
        list(split(script))
    assert refused.value.at == at
