from tetherd.drivers.host import memory


def test_memory_is_given_back_after_many_and_then_not_before_many_more() -> None:
    debt = memory.Debt()
    debt.add(memory.MANY - 1)
    assert not debt.due()
    debt.add()
    assert debt.due()
    assert not debt.due()
    memory.give_back()
