import os
import socket

import pytest

from tetherd.drivers.host.peers import check_peer, peer_uid
from tetherd.errors import Forbidden


def test_the_user_at_the_other_end_is_known() -> None:
    near, far = socket.socketpair()
    with near, far:
        assert peer_uid(near) == os.geteuid()


def test_a_private_socket_is_for_its_owner_and_root() -> None:
    check_peer(os.geteuid(), 0o600)
    check_peer(0, 0o600)
    with pytest.raises(Forbidden, match="not for user 4242") as caught:
        check_peer(4242, 0o700)
    assert "control.mode" in caught.value.fix


@pytest.mark.parametrize("mode", [0o660, 0o620, 0o606])
def test_a_socket_opened_to_others_leaves_them_to_the_files_permissions(mode: int) -> None:
    check_peer(4242, mode)
