"""Tags of metrics: everything an agent logs has a meaning, and every tag stands in the documents' table."""

import pytest

from agents import tags


def constants() -> set[str]:
    """Every tag that the module names, those of one task as ``<tag>/task``."""
    named = {value for name, value in vars(tags).items() if name.isupper() and isinstance(value, str)}
    named |= {*tags.MEAN_TAGS.values(), *tags.TASK_TAGS.values()}
    named |= {tag for extremes in tags.RANGE_TAGS.values() for tag, _ in extremes}
    return named


@pytest.mark.parametrize("tag", sorted(constants()))
def test_every_tag_that_has_a_name_has_a_meaning(tag):
    assert tags.meaning_of(tag) or tags.meaning_of(tags.of_task(tag, "reach-v3"))


@pytest.mark.parametrize("balancer", ["igb_rl", "pcgrad", "son_goku"])
def test_everything_that_an_agent_logs_has_a_meaning(small_agent, balancer):
    agent = small_agent(balancer=balancer)
    agent.learn(400, log_interval=None)
    logged = {}
    agent.logger.record = lambda tag, value, exclude=None: logged.update({tag: value})
    agent.dump_logs()
    assert "train/critic_loss" in logged and "balancer_weight/point-0" in logged
    assert [tag for tag in logged if tags.meaning_of(tag) is None] == []


def test_a_tag_that_nobody_writes_has_no_meaning():
    assert tags.meaning_of("train/critic_los") is None and tags.meaning_of("eval_success/") is None


def test_a_task_may_be_called_anything():
    name = 'a/b "c" \n<task>'
    assert tags.meaning_of(tags.of_task(tags.EVAL_SUCCESS, name)) == tags.meaning_of("eval_success/reach-v3")


def test_the_share_of_conflicts_is_found_in_a_composition_too():
    assert tags.CONFLICT_SHARE.match("train/actor_balancer.pcgrad.conflict_share")[1] == "actor"
    assert tags.CONFLICT_SHARE.match("train/critic_balancer.weight_entropy") is None
