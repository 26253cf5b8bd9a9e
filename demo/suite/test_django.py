"""Django's contrib apps. Each test has its own clean database, with the schema of ``django-admin migrate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import django
import pytest
from django.db import connection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from freshdb.pytest_plugin import LeasedDatabase

django.setup()

from django.contrib.auth.models import Group, Permission, User  # noqa: E402 - models exist only after setup()
from django.contrib.flatpages.models import FlatPage  # noqa: E402
from django.contrib.sites.models import Site  # noqa: E402
from django.db import IntegrityError  # noqa: E402

pytestmark = [pytest.mark.freshdb(template="django"), pytest.mark.usefixtures("orm")]


@pytest.fixture
def orm(freshdb: LeasedDatabase) -> Iterator[None]:
    """Point Django's ORM at this test's database."""
    connection.settings_dict.update(
        HOST=freshdb.host,
        PORT=freshdb.port,
        NAME=freshdb.database,
        USER=freshdb.user,
        PASSWORD=freshdb.password,
    )
    yield
    connection.close()


@pytest.mark.parametrize("name", ["ada", "grace", "mary", "radia"])
def test_first_user_of_a_clean_database_has_id_1(name: str) -> None:
    user = User.objects.create_user(name, password=name)
    assert user.pk == 1
    assert User.objects.get(username=name).check_password(name)


def test_seed_rows_of_the_migrations_exist() -> None:
    assert Site.objects.get().domain == "example.com"
    assert Permission.objects.filter(codename="add_user").exists()


def test_group_grants_its_permissions() -> None:
    group = Group.objects.create(name="editors")
    group.permissions.add(Permission.objects.get(codename="add_flatpage"))
    user = User.objects.create_user("ada")
    user.groups.add(group)
    assert User.objects.get(pk=user.pk).has_perm("flatpages.add_flatpage")


def test_user_name_is_unique() -> None:
    User.objects.create_user("ada")
    with pytest.raises(IntegrityError):
        User.objects.create_user("ada")


def test_page_belongs_to_a_site() -> None:
    page = FlatPage.objects.create(url="/about/", title="About")
    page.sites.add(Site.objects.get())
    assert FlatPage.objects.filter(sites__domain="example.com").get().title == "About"


@pytest.mark.freshdb(isolation="schema")
class TestInASchema:
    """The same tests with isolation ``schema``: each has its own schema in a shared database."""

    def test_first_user_has_id_1(self) -> None:
        assert User.objects.create_user("ada").pk == 1

    def test_seed_rows_of_the_migrations_exist(self) -> None:
        assert Site.objects.get().domain == "example.com"
