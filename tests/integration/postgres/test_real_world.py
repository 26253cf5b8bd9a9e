"""Schemas of real projects, in both isolations."""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

from freshdb_service.lifecycle import Isolation
from freshdb_service.postgres import Login, Server, create_build, seal
from tests.integration.postgres.stage import Template, build_template, connected, pool_of

DJANGO_SETTINGS = """
import os
SECRET_KEY = "test"
INSTALLED_APPS = [
    "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.flatpages",
    "django.contrib.messages", "django.contrib.redirects", "django.contrib.sessions", "django.contrib.sites",
]
TEMPLATES = [{
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "OPTIONS": {"context_processors": [
        "django.template.context_processors.request", "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages",
    ]},
}]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware", "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
SITE_ID = 1
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "USER": os.environ["PGUSER"],
    "PASSWORD": os.environ["PGPASSWORD"], "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"],
}}
"""


async def django_admin(server: Server, login: Login, directory: Path, *arguments: str) -> str:
    await asyncio.to_thread((directory / "project_settings.py").write_text, DJANGO_SETTINGS)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "django",
        *arguments,
        env={
            **os.environ,
            "PYTHONPATH": str(directory),
            "DJANGO_SETTINGS_MODULE": "project_settings",
            "PGHOST": server.host,
            "PGPORT": str(server.port),
            "PGDATABASE": login.database,
            "PGUSER": login.user,
            "PGPASSWORD": login.password,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def test_procrastinates_schema_works_in_both_isolations(any_server: Server) -> None:
    sql = (files("procrastinate") / "sql" / "schema.sql").read_text(encoding="utf-8")
    template = await build_template(any_server, sql)
    for isolation in Isolation:
        pool = await pool_of(any_server, isolation, template)
        database_id = uuid4()
        login = await pool.provision(database_id)
        for generation in (2, 3):
            async with connected(any_server, login) as connection:
                # Its own functions, triggers and types, called as its connector does.
                job: int = await connection.fetchval(
                    "SELECT procrastinate_defer_jobs_v1(ARRAY[ROW('q', 'task', 0, NULL, NULL, '{}', NULL)"
                    "::procrastinate_job_to_defer_v1])"
                )
                assert job is not None
                await connection.fetch("SELECT * FROM procrastinate_jobs")
                assert await connection.fetchval("SELECT count(*) FROM procrastinate_events") == 1
                await connection.fetch("SELECT * FROM procrastinate_fetch_job_v2(NULL, NULL)")
            login = (await pool.reset(database_id, generation)).login
            async with connected(any_server, login) as connection:
                assert await connection.fetchval("SELECT count(*) FROM procrastinate_jobs") == 0


USE = """
from io import StringIO
from django.core.management import call_command
from django.contrib.auth.models import Permission, User
said = StringIO()
call_command("migrate", stdout=said)
assert "No migrations to apply" in said.getvalue(), said.getvalue()
call_command("migrate", "admin", "zero", verbosity=0)
call_command("migrate", verbosity=0)
user = User.objects.create_user("somebody")
user.user_permissions.add(*Permission.objects.all())
print("permissions:", user.user_permissions.count())
"""


async def test_djangos_migrations_work_in_both_isolations(server: Server, tmp_path: Path) -> None:
    template_id = uuid4()
    build = await create_build(server, template_id, 1, [])
    await django_admin(server, build, tmp_path, "migrate", "--verbosity=0")
    sealed = await seal(server, template_id, 1)
    for isolation in Isolation:
        pool = await pool_of(server, isolation, Template(template_id, sealed.database, build))
        login = await pool.provision(uuid4())
        assert "permissions: 36" in await django_admin(server, login, tmp_path, "shell", "--command", USE)
        async with connected(server, login) as connection:
            assert await connection.fetchval("SELECT count(*) FROM django_content_type") == 9
