import pytest
from kinds import MESSAGES, REQUESTS

from tetherd.types import ROLES
from tetherd.wire import catalog, messages
from tetherd.wire.messages import Message, Request


def test_no_two_requests_have_one_method() -> None:
    methods = [kind.METHOD for kind in REQUESTS]
    assert len(set(methods)) == len(methods)


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_every_request_names_its_method_and_the_reply_it_is_typed_with(kind: type[Request[object]]) -> None:
    assert kind.METHOD
    assert issubclass(kind.REPLY, Message)
    base = next(base for base in kind.__orig_bases__ if getattr(base, "__origin__", None) is Request)  # type: ignore[attr-defined]
    assert base.__args__ == (kind.REPLY,)


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_every_request_says_who_of_another_host_may_send_it(kind: type[Request[object]]) -> None:
    assert "ROLES" in vars(kind)
    assert set(ROLES) >= kind.ROLES


def test_whoever_serves_no_models_moves_none() -> None:
    for kind in (messages.Take, messages.Report, messages.NextCommands):
        assert {"worker"} == kind.ROLES
    for kind in (catalog.Remove, catalog.MoveAlias, catalog.Rollback, messages.Infer):
        assert "worker" not in kind.ROLES


def test_models_are_brought_by_gateways_alone() -> None:
    for kind in (catalog.PutBlob, catalog.StatBlob, catalog.Commit):
        assert {"gateway"} == kind.ROLES


def test_what_must_not_be_done_twice_is_never_repeated() -> None:
    assert not any(kind.REPEATABLE for kind in (messages.Take, catalog.PutBlob, catalog.MoveAlias, catalog.Rollback))


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_message_is_an_array_of_its_fields(kind: type[Message]) -> None:
    assert kind.__struct_config__.array_like
