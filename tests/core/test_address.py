"""What an address of Redis says, and how it is written for the libraries that connect there."""

import re
import ssl
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from kombu.connection import Connection

from aegis_workers import address, forms
from aegis_workers.address import Kind

CA = "/run/ca.pem"
THREE = "sentinel://:s%2Fx@one:26380;sentinel://two;sentinel://three:26381/4"


@pytest.mark.parametrize(
    ("url", "as_redis_py_reads", "as_kombu_reads"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://host", "redis://host", "redis://host"),
        ("redis://host/?db=2", "redis://host/2", "redis://host/2"),
        ("redis://host/0?password=p%40", "redis://:p%40@host/0", "redis://:p%40@host/0"),
        ("redis://u:a%2Fb@[::1]:1/3", "redis://u:a%2Fb@[::1]:1/3", "redis://u:a%2Fb@[::1]:1/3"),
        ("rediss://host/1", "rediss://host/1?ssl_cert_reqs=required", "rediss://host/1?ssl_cert_reqs=required"),
        ("rediss://host?ssl_cert_reqs=CERT_NONE", "rediss://host?ssl_cert_reqs=none", "rediss://host?ssl_cert_reqs=none"),
        ("unix:///run/r.sock?db=1", "unix:///run/r.sock?db=1", "redis+socket:///run/r.sock?virtual_host=1"),
        ("redis+socket://u:p@/r.sock?virtual_host=1", "unix://u:p@/r.sock?db=1", "redis+socket://u:p@/r.sock?virtual_host=1"),
    ],
)
def test_one_address_is_written_for_each_library(url: str, as_redis_py_reads: str, as_kombu_reads: str) -> None:
    found = address.parse(url)
    assert found.for_redis_py == as_redis_py_reads
    assert found.for_kombu == as_kombu_reads
    assert address.parse(found.for_kombu) == found


def test_certificates_are_looked_at_by_all_libraries_alike_unless_the_address_says_otherwise() -> None:
    found = address.parse("rediss://host/0", CA)
    told: Any = redis.connection.parse_url(found.for_redis_py)  # type: ignore[no-untyped-call]
    assert (told["ssl_cert_reqs"], told["ssl_ca_certs"]) == ("required", CA)
    asked: Any = Connection(found.for_kombu).ssl  # type: ignore[no-untyped-call]
    assert asked == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": CA}
    own = address.parse("rediss://host/0?ssl_ca_certs=/own.pem", CA)
    assert own.tls == {"ssl_cert_reqs": "required", "ssl_ca_certs": "/own.pem"}


def test_each_sentinel_is_told_the_password_and_the_database_that_one_of_them_names() -> None:
    found = address.parse(THREE)
    assert found.kind is Kind.SENTINEL
    assert found.sentinels == [("one", 26380), ("two", 26379), ("three", 26381)]
    assert (found.password, found.db, found.tls) == ("s/x", "4", None)
    assert found.for_kombu == "sentinel://:s%2Fx@one:26380/4;sentinel://:s%2Fx@two/4;sentinel://:s%2Fx@three:26381/4"


def test_sentinels_are_reached_with_tls_where_an_authority_or_the_address_says_so() -> None:
    assert address.parse(THREE, CA).tls == {"ssl_cert_reqs": "required", "ssl_ca_certs": CA}
    said = address.parse("sentinel://one?ssl_cert_reqs=required&ssl_check_hostname=False")
    assert said.tls_arguments == {"ssl_cert_reqs": "required", "ssl_check_hostname": False}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://host", "write redis://host:port/db"),
        ("sentinel://one;redis://two", "sentinel://host:port;sentinel://host:port/db"),
        ("sentinel://one;two", "sentinel://host:port;sentinel://host:port/db"),
        ("redis+cluster://host", "Redis Cluster is not supported"),
        ("redis://host/zero", "is not a number"),
        ("redis://host/0?ssl_cert_reqs=none", "write rediss:// in the place of redis://"),
        ("rediss://host/0?ssl_cert_reqs=maybe", "ssl_cert_reqs is one of required, optional, none"),
        ("redis://host:0/0", "write redis://host:port/db"),
    ],
)
def test_what_is_no_address_is_refused_with_what_is_allowed(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        address.parse(url)


@given(st.text(min_size=1), st.text())
def test_any_password_and_user_come_out_as_they_went_in(password: str, user: str) -> None:
    found = address.Address(kind=Kind.TCP, hosts=["host:1"], user=user, password=password, db="0", options={})
    read = address.parse(found.for_kombu)
    assert (read.user, read.password, read.hosts, read.db) == (user, password, ["host:1"], "0")


def test_the_password_of_each_sentinel_is_hidden() -> None:
    shown = forms.without_password("sentinel://:first@one:1;sentinel://two:2;sentinel://u:third@three/0?password=fourth")
    assert shown == "sentinel://:***@one:1;sentinel://two:2;sentinel://u:***@three/0?password=***"
