"""The chat in a real terminal (tmux): what is typed, and what then stands on the screen."""
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import time
import unittest

import tiny_model
from harness import ENGINE, ENVIRONMENT, HERE, Case, fixture, main, model
from hub_server import Hub

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SOCKET = os.path.join(HERE, "tmux")


def tmux(*arguments):
    return subprocess.run(["tmux", "-S", SOCKET, "-f", "/dev/null", *arguments], capture_output=True, env=ENVIRONMENT, check=True).stdout.decode()


@unittest.skipUnless(shutil.which("tmux"), "tmux is not installed")
class Terminal(Case):
    """Each test has a terminal of its own, 80 x 40, with the program in a shell that then prints its exit code."""

    n_started = 0

    def setUp(self):
        Terminal.n_started += 1
        self.home = os.path.join(HERE, "home%d" % Terminal.n_started)
        self.name = "t%d" % Terminal.n_started
        os.makedirs(self.home)
        self.running = False

    def tearDown(self):
        if self.running:
            subprocess.run(["tmux", "-S", SOCKET, "kill-session", "-t", self.name], capture_output=True)

    def start(self, *arguments, name="tiny", path=None, columns=80, rows=40, environment="", until=r"> *$", **changes):
        path = path or model(name, **changes)
        command = " ".join(shlex.quote(word) for word in [ENGINE, "chat", path, "--threads", "1", *arguments])
        shell = "trap : INT; cd %s; HOME=%s %s %s; echo \"[exit $?]\"; exec sleep 1000" % (
            shlex.quote(self.home), shlex.quote(self.home), environment, command)
        before = self.name
        if self.running:  # a name of its own: without any session tmux's server would end
            self.name += "x"
        tmux("new-session", "-d", "-s", self.name, "-x", str(columns), "-y", str(rows), "sh", "-c", shell)
        if self.running:
            tmux("kill-session", "-t", "=" + before)
        self.running = True
        self.waits_for(until)

    def hub(self):
        """A hub with the tiny model, and the environment that leads there."""
        hub = Hub.of(model())
        self.addCleanup(hub.stop)
        return "HF_ENDPOINT=%s HF_HUB_CACHE=%s/cache" % (hub.endpoint, self.home)

    def test_offers_to_fetch(self):
        environment = self.hub()
        self.start(path="org/tiny", environment=environment, until=r"Fetch it now\? \[Y/n\]$")
        self.keys("n", "Enter")
        screen = self.waits_for(r"\[exit 1\]$")
        self.assertIn("engine pull org/tiny", screen)
        self.start(path="org/tiny", environment=environment, until=r"org/tiny is not in the cache\. Fetch it now\? \[Y/n\]$")
        self.keys("C-c")
        self.waits_for(r"\[exit 130\]$")
        self.start(path="org/tiny", environment=environment, until=r"\[Y/n\]$")
        self.keys("Enter")
        screen = self.waits_for(r"Ctrl-D leaves\.\n>$")
        self.assertIn("org/tiny: 5 files", screen)
        self.say("Hello")
        self.keys("C-d")
        self.waits_for(r"\[exit 0\]$")
        self.start(path="org/tiny", environment=environment)  # it is there now

    def screen(self, *flags):
        return tmux("capture-pane", "-p", "-t", self.name, *flags)

    def text(self):
        """The screen without trailing blanks."""
        return "\n".join(line.rstrip() for line in self.screen().splitlines()).rstrip()

    def type(self, text):
        tmux("send-keys", "-t", self.name, "-l", text)

    def keys(self, *keys):
        tmux("send-keys", "-t", self.name, *keys)

    def paste(self, text):
        subprocess.run(["tmux", "-S", SOCKET, "load-buffer", "-"], input=text.encode(), env=ENVIRONMENT, check=True)
        tmux("paste-buffer", "-p", "-t", self.name)

    def waits_for(self, pattern, seconds=20):
        """The pattern is found in the screen's text; ^ and $ are those of the whole."""
        end = time.time() + seconds
        while time.time() < end:
            if re.search(pattern, self.text()):
                return self.text()
            time.sleep(0.03)
        self.fail("expected %r on the screen:\n%s" % (pattern, self.text()))

    def say(self, text, expect=r"tok/s, prompt \d+ \(\d+ cached\)\n>$"):
        """Types a line and waits until the prompt is back."""
        self.type(text)
        self.keys("Enter")
        return self.waits_for(r"%s[\s\S]*%s" % (re.escape(text), expect))

    def command(self, text):
        return self.say(text, r"\n>$")

    def tty_and_pid(self):
        """Of the program in this terminal."""
        tty = tmux("display-message", "-p", "-t", self.name, "#{pane_tty}").strip()
        processes = subprocess.run(["ps", "-t", tty, "-o", "pid=,comm="], capture_output=True).stdout.decode().splitlines()
        return tty, next(int(line.split()[0]) for line in processes if line.endswith(" " + os.path.basename(ENGINE)))

    def saved(self):
        path = os.path.join(self.home, "check.json")
        if os.path.exists(path):
            os.remove(path)
        self.type("!save " + path)
        self.keys("Enter")
        end = time.time() + 10
        while not os.path.exists(path) and time.time() < end:
            time.sleep(0.02)
        with open(path) as file:
            return json.load(file)["chat_history"]

    def test_conversation(self):
        self.start()
        self.assertIn("!help", self.text())
        screen = self.say("Hello there")
        self.assertRegex(screen, r"> Hello there\n" + ALPHABET + r"\n27 tokens, [\d.]+ tok/s, prompt \d+ \(0 cached\)\n>$")
        screen = self.say("And again")
        self.assertNotIn("(0 cached)", screen.split("And again")[1])
        self.assertEqual([m["content"] for m in self.saved()], ["Hello there", ALPHABET, "And again", ALPHABET])

    def test_commands(self):
        self.start()
        screen = self.command("!help")
        for word in ("!status", "!set", "!undo", "!regen", "Ctrl-C"):
            self.assertIn(word, screen)
        self.assertIn("max_new_tokens=3", self.command("!set max_new_tokens=3 eos_token_id=None stop_strings=[\"Z\"]").split("settings:")[1])
        self.assertIn("0 of 4096 tokens", self.command("!status"))
        self.command("!set max_new_tokens=100 eos_token_id=258")
        self.say("one")
        self.assertRegex(self.command("!tokens"), r"context: \d+ of 4096 tokens used")
        self.assertIn("did you mean !status?", self.command("!statis"))
        screen = self.command("!save mine.json")
        self.assertIn("Saved to mine.json", screen)
        self.assertIn("Took back: one", self.command("!undo"))
        self.assertEqual(self.saved(), [])
        self.assertIn("Loaded 2 messages from mine.json", self.command("!load mine.json"))
        self.command("!set max_new_tokens=4 stop_strings=None")
        self.say("!regen", r"go on\? \[y/N\]$")
        self.say("n", r"\n>$")
        self.assertEqual([m["content"] for m in self.saved()], ["one", "ABCD"])
        self.command("!system Be kind")
        self.assertEqual(self.saved()[0], {"role": "system", "content": "Be kind"})
        self.type("!clear")
        self.keys("Enter")
        screen = self.waits_for(r"^A new conversation\.\n>$")
        self.assertEqual(self.saved(), [{"role": "system", "content": "Be kind"}])
        self.type("!exit")
        self.keys("Enter")
        self.waits_for(r"\[exit 0\]$")

    def test_going_on(self):
        self.start("max_new_tokens=10")
        self.say("go", r"ABCDEFGHIJ\n10 tokens.*\ncut at max_new_tokens; go on\? \[y/N\]$")
        self.say("y", r"KLMNOPQRST\n10 tokens.*\ncut at max_new_tokens; go on\? \[y/N\]$")
        self.say("y", r"UVWXYZ\n7 tokens.*\n>$")
        self.assertEqual([m["content"] for m in self.saved()], ["go", ALPHABET])
        self.say("!regen", r"go on\? \[y/N\]$")
        self.say("the next message", r"go on\? \[y/N\]$")  # typed in place of an answer
        self.keys("Enter")
        self.waits_for(r"\n>$")
        self.assertEqual([m["content"] for m in self.saved()], ["go", ALPHABET[:10], "the next message", ALPHABET[:10]])

    def test_several_lines(self):
        self.start()
        self.type("first \\")
        self.keys("Enter")
        self.type("second")
        self.keys("Enter")
        self.waits_for(r"tok/s")
        self.paste("pasted one\npasted two\n\n  indented")
        self.waits_for(r"indented$")
        self.keys("Enter")
        self.waits_for(r"tok/s[\s\S]*tok/s")
        self.command("!multiline")
        self.type("alpha")
        self.keys("Enter")
        self.type("beta")
        self.keys("Enter", "Enter")
        self.waits_for(r"beta[\s\S]*tok/s[\s\S]*\n>$")
        self.command("!multiline")
        users = [m["content"] for m in self.saved() if m["role"] == "user"]
        self.assertEqual(users, ["first \nsecond", "pasted one\npasted two\n\n  indented", "alpha\nbeta"])

    def test_editing(self):
        self.start()
        self.type("helo world")
        self.keys("C-a", "Right", "Right", "Right")
        self.type("l")
        self.keys("C-e", "C-w")
        self.type("\u4e16\u754c \u00e9\u00e8x")
        self.keys("BSpace")
        self.say("!")
        self.type("to be thrown away")
        self.keys("C-u")
        self.say("z\u00fcrich \U0001f600")
        users = [m["content"] for m in self.saved() if m["role"] == "user"]
        self.assertEqual(users, ["hello \u4e16\u754c \u00e9\u00e8!", "z\u00fcrich \U0001f600"])

    def test_history(self):
        self.start()
        self.say("first message")
        self.say("second message")
        self.keys("Up", "Up")
        self.waits_for(r"> first message$")
        self.keys("C-u", "C-d")
        self.waits_for(r"\[exit 0\]$")
        path = os.path.join(self.home, ".local/state/engine/history")
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        self.start()
        self.keys("Up")
        self.waits_for(r"> second message$")
        self.keys("Up")
        self.waits_for(r"> first message$")
        self.keys("C-u", "C-r")
        self.type("sec")
        self.waits_for(r"second message")
        self.keys("Enter")
        self.keys("Enter")
        self.waits_for(r"tok/s")
        self.assertEqual(self.saved()[0]["content"], "second message")

    def test_interrupting(self):
        self.start("eos_token_id=None", "max_new_tokens=1000000", name="long", context=1 << 20)
        self.type("go")
        self.keys("Enter")
        self.waits_for(r"xyzabc")
        self.keys("C-c")
        self.waits_for(r"tok/s, prompt[^>]*\n>$")
        history = self.saved()
        self.assertEqual([m["role"] for m in history], ["user", "assistant"])
        self.assertTrue(history[1]["content"].startswith(ALPHABET + "abc"))
        self.command("!set max_new_tokens=5")
        self.say("still here", r"go on\? \[y/N\]$")
        self.keys("Enter")
        self.waits_for(r"\n>$")
        self.type("thrown away")
        self.keys("C-c")
        self.waits_for(r"leaves\.\n>$")
        self.keys("C-c")
        self.waits_for(r"\[exit 130\]$")

    def test_second_interrupt_after_an_answer_leaves(self):
        self.start("eos_token_id=None", "max_new_tokens=1000000", name="long", context=1 << 20)
        self.type("go")
        self.keys("Enter")
        self.waits_for(r"xyzabc")
        self.keys("C-c")
        self.waits_for(r"tok/s, prompt[^>]*\n>$")
        self.keys("C-c")
        self.waits_for(r"\[exit 130\]$")

    def test_end_of_input(self):
        self.start()
        self.say("one")
        self.keys("C-d")
        self.waits_for(r"\[exit 0\]$")

    def test_typing_ahead(self):
        self.start("eos_token_id=None", "max_new_tokens=1000", "stop_strings=[\"nothing\"]", name="long", context=1 << 20)
        self.type("go")
        self.keys("Enter")
        self.type("n")
        self.keys("Enter")
        self.type("!exit")
        self.keys("Enter")
        self.waits_for(r"\n> !exit\n\[exit 0\]$")
        self.assertNotIn("n\nn\n", self.text())

    def test_colours(self):
        self.start()
        self.say("Hi")
        self.assertIn("\x1b[", self.screen("-e"))  # the closing line is dim
        self.keys("C-d")
        self.waits_for(r"\[exit 0\]$")
        self.start(environment="NO_COLOR=1")
        self.say("Hi")
        self.assertNotIn("\x1b[", self.screen("-e"))

    def test_thoughts_are_dim(self):
        says = ["<think>\nHm,", " two", ".\n</think>", "\n\nIt is", " 4."]
        self.start("max_new_tokens=3", name="thinks", says=says, template=tiny_model.CHATML + "{# </think> #}")
        self.say("go", r"\nHm, two\.\n3 tokens.*\ncut at max_new_tokens; go on\? \[y/N\]$")
        self.assertIn("\x1b[2mHm,", self.screen("-e"))
        self.say("y", r"\nIt is 4\.\n3 tokens.*\n>$")
        self.assertEqual(self.saved()[1], {"role": "assistant", "content": "It is 4.", "reasoning_content": "Hm, two."})

    def test_terminal_without_a_cursor(self):
        self.start(environment="TERM=dumb")
        self.say("Hi")
        self.command("!tokens")
        self.keys("C-d")
        self.waits_for(r"\[exit 0\]$")
        self.assertNotIn("\x1b[", self.screen("-e"))

    def test_narrow_terminal(self):
        self.start(columns=20, rows=15)
        self.type("a message that is longer than a line of this terminal")
        self.keys("C-a")
        self.type("X")
        self.keys("Enter")
        self.waits_for(r"tok[\s\S]*\)\n>$")
        self.assertEqual(self.saved()[0]["content"], "Xa message that is longer than a line of this terminal")

    def test_question_in_a_narrow_terminal(self):
        self.start("max_new_tokens=3", columns=30, rows=15)
        self.type("go")
        self.keys("Enter")
        self.waits_for(r"cut at max_new_tokens\ngo on\? \[y/N\]$")
        self.keys("y", "BSpace", "n", "Enter")
        screen = self.waits_for(r"go on\? \[y/N\] n\n>$")
        self.assertEqual(screen.count("go on?"), 1)

    def test_overflow_keeps_the_chat(self):
        self.start("--ctx", "120")
        self.say("one")
        self.type("x" * 150)
        self.keys("Enter")
        screen = self.waits_for(r"engine: [\s\S]*\n>$")
        self.assertIn("120", screen)
        self.assertEqual(len(self.saved()), 2)

    def test_termination_restores_the_terminal(self):
        self.start()
        tty, pid = self.tty_and_pid()
        os.kill(pid, signal.SIGTERM)
        self.waits_for(r"\[exit 143\]$")
        mode = subprocess.run(["stty", "-F", tty, "-a"], capture_output=True).stdout.decode()
        self.assertIn(" icanon", mode)
        self.assertIn(" echo ", mode)

    def test_closed_terminal_ends_the_program(self):
        self.start()
        _, pid = self.tty_and_pid()
        tmux("kill-session", "-t", self.name)
        self.running = False
        end = time.time() + 10
        while os.path.exists("/proc/%d" % pid) and time.time() < end:
            time.sleep(0.05)
        self.assertFalse(os.path.exists("/proc/%d" % pid))

    def test_real_model(self):
        self.start("do_sample=False", "max_new_tokens=60", path=fixture("stories260K"))
        self.say("Once upon a time", r"go on\? \[y/N\]$")
        self.say("y", r"(\n>|\[y/N\])$")


def setUpModule():
    if shutil.which("tmux"):
        tmux("new-session", "-d", "-s", "keep", "sleep", "10000")  # the server would leave with its last session


def tearDownModule():
    subprocess.run(["tmux", "-S", SOCKET, "kill-server"], capture_output=True)


if __name__ == "__main__":
    main()
