# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person can do: commands, forms on a screen and word by word, and that what ends something asks back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from console_lab import SNAPSHOT, Noted

from coldmig_agent.console.desk import Desk
from coldmig_agent.console.forms import Editor, Field, Form, Reply
from coldmig_agent.console.talk import Talk, status_lines
from coldmig_agent.console.view import HELP, LOG, MAIN, TESTS, Now, View
from coldmig_agent.keys import Keys
from coldmig_agent.machine import Disk, LeftOut
from coldmig_agent.status import Phase, Snapshot

WAITING = replace(SNAPSHOT, phase=Phase.WAITING)
DISKS = tuple(
    Disk(number, f"/dev/sd{'ab'[number]}", 1 << 30, 512, f"S-{number}", "Disk", "", False, None, ())
    for number in range(2)
)
LEFT = LeftOut("/dev/sdc", 1 << 40, "S-2", "Disk", "left out by the settings (serial S-2)")


class Sitting:
    """A person at a full screen."""

    def __init__(self, snapshot: Snapshot = WAITING) -> None:
        self.hands = Noted()
        self.keys = Keys()
        self.now = Now(snapshot, [("12:00:00", "an event")])
        self.time = 0.0
        self.view = View(Desk(self.hands), self.keys, lambda: self.time)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.view.key(key, self.now)
            if self.view.pending is not None:
                assert "One moment" in self.text
                self.view.submit()

    @property
    def text(self) -> str:
        lines, _cursor = self.view.picture(self.now, (80, 24))
        assert len(lines) == 24
        return "\n".join(line.text for line in lines)

    def word(self, text: str) -> None:
        self.press(*text)


@pytest.mark.parametrize(("key", "asks"), [("r", "Reboot this"), ("p", "Power this"), ("c", "Give this")])
def test_what_ends_something_asks_back(key: str, asks: str) -> None:
    sitting = Sitting()
    done = {"r": "reboot", "p": "poweroff", "c": "cancel"}[key]
    for no in ("n", "esc", "q"):
        sitting.press(key)
        assert asks in sitting.text
        sitting.press("x", " ", "enter", no)
        assert sitting.hands.done == []
        assert "Nothing was changed." in sitting.text
    sitting.press(key, "y")
    assert sitting.hands.done == [done]


def test_a_copy_that_is_not_complete_is_told_before_the_machine_goes_off() -> None:
    sitting = Sitting(SNAPSHOT)
    sitting.press("p")
    assert "The copy is not complete" in sitting.text
    ended = Sitting(replace(SNAPSHOT, phase=Phase.DONE))
    ended.press("p")
    assert "not" not in ended.text.split("Power this machine off?")[1].splitlines()[0]


def test_a_form_is_filled_in_field_by_field() -> None:
    sitting = Sitting()
    sitting.press("n")
    assert "< eth0 >" in sitting.text
    sitting.press("right")
    assert "< eth1 >" in sitting.text
    sitting.press("down", "ctrl u")
    sitting.word("192.0.2.10/24")
    sitting.press("enter")
    sitting.word("192.0.2.11")
    sitting.press("backspace")
    sitting.press("tab", "shift tab", "f10")
    assert sitting.hands.done == [
        {"interface": "eth1", "ip": "192.0.2.10/24", "gateway": "192.0.2.1", "dns": "", "vlan": "", "proxy": "",
         "proxy_user": "", "proxy_password": ""}
    ]  # fmt: skip
    assert "Done." in sitting.text


def test_a_secret_is_never_shown() -> None:
    sitting = Sitting()
    sitting.press("n", *["down"] * 7)
    sitting.word("s3cret")
    assert "******" in sitting.text
    assert "s3cret" not in sitting.text
    talk = Talk(Desk(sitting.hands))
    shown = talk.answer("network", WAITING, [])
    for _ in range(7):
        assert not talk.secret
        shown += talk.answer("", WAITING, [])
    assert talk.secret
    shown += talk.answer("s3cret", WAITING, [])
    assert sitting.hands.done[-1]["proxy_password"] == "s3cret"  # type: ignore[index]
    assert "s3cret" not in "\n".join(shown)


def test_a_form_that_is_not_accepted_stays_with_the_reason() -> None:
    sitting = Sitting()
    sitting.hands.reply = Reply("gateway: not an address", again=True)
    sitting.press("n", "f10")
    assert "gateway: not an address" in sitting.text
    sitting.hands.reply = Reply("In force.")
    sitting.press("f10")
    assert "In force." in sitting.text
    assert len(sitting.hands.done) == 2


def test_the_shell_wants_the_password_or_is_refused() -> None:
    sitting = Sitting()
    sitting.press("s")
    assert "allows no shell" in sitting.text
    sitting.hands.wants = "password"
    sitting.hands.reply = Reply("That is not the password", again=True)
    sitting.press("s")
    sitting.word("wrong")
    sitting.press("enter")
    assert "That is not the password" in sitting.text
    assert "*" not in sitting.text
    sitting.word("sesame")
    sitting.press("enter")
    assert sitting.hands.done[1:] == [("shell", "sesame")]
    sitting.press("esc")
    sitting.hands.wants = "nothing"
    sitting.hands.reply = Reply("It has ended.")
    sitting.press("s", "y")
    assert sitting.hands.done[2:] == [("shell", "")]


def test_disks_are_chosen_before_the_copy_begins_and_not_while_it_runs() -> None:
    sitting = Sitting()
    sitting.hands.known = (DISKS, (LEFT,), frozenset())
    sitting.press("d")
    text = sitting.text
    assert "/dev/sda 1.0 GiB Disk" in text
    assert "/dev/sdc 1.0 TiB: left out by the settings" in text
    sitting.press("down", "right", "f10")
    assert sitting.hands.done == [("hold", True), ("leave out", ["/dev/sdb"]), ("hold", False)]
    copying = Sitting(SNAPSHOT)
    copying.press("d")
    assert "cancel the migration first" in copying.text
    assert copying.hands.done == []


def test_not_all_disks_can_be_left_out_and_a_choice_can_be_taken_back() -> None:
    sitting = Sitting()
    here = LeftOut("/dev/sdb", 1 << 30, "S-1", "Disk", "left out by the settings (chosen at the console)")
    sitting.hands.known = (DISKS[:1], (LEFT, here), frozenset({"/dev/sdb"}))
    sitting.press("d", "right", "f10")
    assert "At least one disk" in sitting.text
    sitting.press("left", "down", "left", "f10")
    assert ("leave out", []) in sitting.hands.done


def test_a_machine_is_not_registered_while_its_disks_are_being_chosen() -> None:
    sitting = Sitting(replace(SNAPSHOT, phase=Phase.DISCOVERING))
    sitting.press("d")
    assert "not known yet" in sitting.text
    sitting.hands.known = (DISKS, (), frozenset())
    sitting.press("d", "esc")
    assert sitting.hands.done == [("hold", True), ("hold", True), ("hold", False)]


def test_leaving_the_terminal_ends_what_was_begun() -> None:
    sitting = Sitting()
    sitting.hands.known = (DISKS, (), frozenset())
    sitting.press("d")
    sitting.view.leave()
    assert sitting.hands.done == [("hold", True), ("hold", False)]
    assert sitting.view.screen == MAIN


def test_again_means_now_or_anew_and_nothing_where_all_is_done() -> None:
    for phase, done in ((Phase.ENROLLING, [("retry", False)]), (Phase.FAILED, [("retry", True)]), (Phase.DONE, [])):
        sitting = Sitting(replace(SNAPSHOT, phase=phase))
        sitting.press("a")
        assert sitting.hands.done == done


def test_the_other_screens_are_a_key_away() -> None:
    sitting = Sitting()
    for key, screen, words in (("l", LOG, "12:00:00 an event"), ("h", HELP, "reboot this machine")):
        sitting.press(key)
        assert sitting.view.screen == screen
        assert words in sitting.text
        sitting.press("down", "page down", "home", "up", "esc")
        assert sitting.view.screen == MAIN
    sitting.press("t")
    assert sitting.view.screen == TESTS
    assert sitting.hands.done == ["test"]


def test_keys_that_the_agent_waits_for_are_no_commands() -> None:
    sitting = Sitting(replace(SNAPSHOT, phase=Phase.ASSESSED))
    sitting.keys.read(0)
    sitting.press("r")
    assert sitting.keys.read(0) == "r"
    assert "Reboot this machine?" not in sitting.text
    sitting.press("l")
    assert sitting.view.screen == LOG


def test_an_answer_goes_away_by_itself() -> None:
    sitting = Sitting()
    sitting.press("c", "n")
    assert "Nothing was changed." in sitting.text
    sitting.time = 60
    assert "Nothing was changed." not in sitting.text


def talk(snapshot: Snapshot, *lines: str, hands: Noted | None = None) -> str:
    talking = Talk(Desk(hands or Noted()))
    return "\n".join(text for line in lines for text in talking.answer(line, snapshot, ["an event"]))


def test_plain_words_do_the_same_and_ask_for_a_yes() -> None:
    hands = Noted()
    assert "Type yes" in talk(WAITING, "reboot", "no", hands=hands)
    assert hands.done == []
    talk(WAITING, "reboot", "YES", "power", "yes", "cancel", "yes", "again", "test", hands=hands)
    assert hands.done == ["reboot", "poweroff", "cancel", ("retry", False), "test"]


def test_plain_questions_keep_empty_and_stop_values() -> None:
    hands = Noted()
    answers = ["network", "eth1", "192.0.2.10/24", "192.0.2.1", "", "none", "", "", ""]
    text = talk(WAITING, *answers, hands=hands)
    assert "Interface: eth0 or eth1? Now eth0. Enter keeps it." in text
    assert hands.done == [
        {"interface": "eth1", "ip": "192.0.2.10/24", "gateway": "192.0.2.1", "dns": "", "vlan": "", "proxy": "",
         "proxy_user": "", "proxy_password": ""}
    ]  # fmt: skip
    assert "Nothing was changed." in talk(WAITING, "network", "eth1", "stop", hands=hands)
    assert len(hands.done) == 1


def test_plain_forms_that_are_not_accepted_are_asked_again() -> None:
    hands = Noted()
    hands.reply = Reply("gateway: not an address", again=True)
    text = talk(WAITING, "network", *[""] * 8, "stop", hands=hands)
    assert "gateway: not an address\nOnce more, or type stop:" in text
    hands.wants = "password"
    hands.reply = Reply("That is not the password", again=True)
    assert "That is not the password" in talk(WAITING, "shell", "wrong", hands=hands)


def test_a_plain_status_tells_everything_in_sentences() -> None:
    text = "\n".join(status_lines(replace(SNAPSHOT, problem="the site is away")))
    assert "Copying." in text
    assert "disk 0: 40.0 %, 1.2 GiB of 3.0 GiB, 35.0 MiB/s, 52 s left" in text
    assert "Problem: the site is away." in text
    assert "[#" not in text
    assert "erp-db-01" in talk(WAITING, "info")
    assert "an event" in talk(WAITING, "log")
    assert "is no command" in talk(WAITING, "sing\x1b[2J")
    assert "\x1b" not in talk(WAITING, "sing\x1b[2J")
    assert "cable" in talk(WAITING, "tests")
    assert "shell: a root shell" in talk(WAITING, "help")


def test_a_value_cannot_grow_without_end() -> None:
    editor = Editor(Form("Title", (), lambda _values: Reply(""), (Field("a", "A"),)))
    for _ in range(1000):
        editor.key("x")
    lines, cursor = editor.picture(80, 24)
    assert all(len(line.text) <= 80 for line in lines)
    assert cursor is not None
    assert cursor[0] < 80
    assert len(editor.values["a"]) == 200
