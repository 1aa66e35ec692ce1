"""Thoughts in answers: taken out of them in chat and responses, and given back to the template."""
import json
import os
import unittest

import server as s
from test_api import USER, satisfies
from test_tool_calls import ADD, PARAMETERS, join

# As Qwen 3's: thoughts of the last messages are written out, an open tag if `begin`, none if the template says so.
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}<tool_call>{\"name\": NAME, \"arguments\": ARGUMENTS}</tool_call>{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.reasoning_content %}{{ '<think>' + message.reasoning_content + '</think>' }}{% endif %}{{ message.content }}"
    "{% for call in message.tool_calls %}{{ '<tool_call>' + call.function.name + '</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is false %}{{ '<think>\\n\\n</think>\\n' }}{% elif begin %}{{ '<think>\\n' }}{% endif %}{% endif %}"
)
CALL = '<tool_call>{"name": "add", "arguments": {"x": 5}}</tool_call>'
THINKING = [("<think>", True), "\nTwo and", " two.\n", ("</think>", True), "\n\nIt is", " 4."]


def model(name, says, **more):
    return s.tiny_model.write(os.path.join(s.SCRATCH, name), context=40000, template=TEMPLATE, says=says, **more)


def thoughts(events):
    return "".join(c["delta"].get("reasoning_content", "") for e in events[:-1] for c in e["choices"])


class Answers(unittest.TestCase):
    """A model that always says the same, token by token."""
    maxDiff = 4000

    def ask(self, server, **fields):
        """The message of a chat, after seeing that a stream gives the same."""
        body = {"messages": USER, **fields}
        status, answer = server.post("/v1/chat/completions", body)
        self.assertEqual(status, 200, answer)
        message = answer["choices"][0]["message"]
        events = server.stream("/v1/chat/completions", body)
        streamed, finish = join(events)
        self.assertEqual((streamed["content"], finish), (message["content"] or "", answer["choices"][0]["finish_reason"]))
        self.assertEqual(thoughts(events), message.get("reasoning_content", ""))
        return message, answer

    def test_chat(self):
        with s.Server(model("thinks", THINKING)) as server:
            message, answer = self.ask(server)
            self.assertEqual((message["content"], message["reasoning_content"]), ("It is 4.", "Two and two."))
            self.assertGreater(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 0)
            self.assertLess(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], answer["usage"]["completion_tokens"] * 10)
            # Cut off inside, and where there is no thought.
            message, _ = self.ask(server, max_tokens=3)
            self.assertEqual((message["content"], message["reasoning_content"]), ("", "Two and two."))
        with s.Server(model("plain", ["No ", "<think>", "tags", "</think>"])) as server:
            message, answer = self.ask(server)
            self.assertEqual(message["content"], "No <think>tags</think>")
            self.assertNotIn("reasoning_content", message)
            self.assertNotIn("completion_tokens_details", answer["usage"])

    def test_the_prompt_opens_the_thought(self):
        with s.Server(model("begun", ["Two and", " two.\n", "</think>", "\n\nIt is 4."])) as server:
            message, _ = self.ask(server, chat_template_kwargs={"begin": True})
            self.assertEqual((message["content"], message["reasoning_content"]), ("It is 4.", "Two and two."))
            for kwargs in ({}, {"enable_thinking": False}):
                message, _ = self.ask(server, chat_template_kwargs=kwargs)
                self.assertEqual(message["content"], "Two and two.\n</think>\n\nIt is 4.")
                self.assertNotIn("reasoning_content", message)

    def test_with_a_call(self):
        with s.Server(model("calls", ["<think>I could ", CALL, " then</think>", "\n" + CALL])) as server:
            message, answer = self.ask(server, tools=[ADD])
            self.assertEqual((message["content"], message["reasoning_content"], answer["choices"][0]["finish_reason"]), (None, "I could " + CALL + " then", "tool_calls"))
            self.assertEqual([c["function"]["arguments"] for c in message["tool_calls"]], ['{"x": 5}'])
            self.assertNotIn("tool_calls", self.ask(server)[0])  # and no calls where no tools are

    def test_history(self):
        with s.Server(model("thinks", THINKING)) as server:
            message = server.post("/v1/chat/completions", {"messages": USER})[1]["choices"][0]["message"]
            prompt = server.post("/apply-template", {"messages": USER + [message] + USER})[1]["prompt"]
            self.assertIn("assistant\n<think>Two and two.</think>It is 4.<|im_end|>", prompt)

    def test_responses(self):
        with s.Server(model("more", ["<think>Two and", " two.</think>", "\nSo: ", CALL])) as server:
            tool = {"type": "function", **ADD["function"]}
            status, body = server.post("/v1/responses", {"input": "hello", "tools": [tool]})
            self.assertEqual((status, [item["type"] for item in body["output"]]), (200, ["reasoning", "message", "function_call"]))
            thought = body["output"][0]
            self.assertEqual((thought["content"], thought["summary"], thought["status"]), ([{"type": "reasoning_text", "text": "Two and two."}], [], "completed"))
            self.assertGreater(body["usage"]["output_tokens_details"]["reasoning_tokens"], 0)
            _, _, text = server.request("POST", "/v1/responses", {"input": "hello", "tools": [tool], "stream": True})
            data = [json.loads(e.split("\n", 1)[1][6:]) for e in text.split("\n\n") if e.startswith("event: ")]
            self.assertEqual([d["type"][9:] for d in data if "delta" not in d["type"]],
                             ["created", "in_progress", "output_item.added", "content_part.added", "reasoning_text.done", "content_part.done", "output_item.done",
                              "output_item.added", "content_part.added", "output_text.done", "content_part.done", "output_item.done",
                              "output_item.added", "function_call_arguments.done", "output_item.done", "completed"])
            deltas = [d for d in data if d["type"] == "response.reasoning_text.delta"]
            self.assertEqual("".join(d["delta"] for d in deltas), "Two and two.")
            self.assertEqual({(d["item_id"], d["output_index"], d["content_index"]) for d in deltas}, {(data[2]["item"]["id"], 0, 0)})
            # The items go back in: the thought belongs to the message behind it.
            history = [{"role": "user", "content": "hello"}, *body["output"], {"type": "function_call_output", "call_id": body["output"][2]["call_id"], "output": "6"}]
            messages = [*USER, {"role": "assistant", "content": "So:", "reasoning_content": "Two and two.",
                                "tool_calls": [{"id": "x", "type": "function", "function": {"name": "add", "arguments": '{"x": 5}'}}]}, {"role": "tool", "content": "6"}]
            self.assertEqual(USER, history[:1])
            for items in (history, [history[0], {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Two and two."}]}, *history[2:]]):
                tokens = server.post("/v1/responses", {"input": items, "tools": [tool]})[1]["usage"]["input_tokens"]
                self.assertEqual(tokens, server.post("/apply-template", {"messages": messages, "tools": [ADD]})[1]["count"])
            self.assertEqual(server.post("/v1/responses", {"input": [{"type": "reasoning", "content": "text"}, *history[:1]]})[0], 400)


class Forced(unittest.TestCase):
    """What has a form comes behind the thought, whatever the model would rather say."""
    SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}}}

    def test_form_behind_a_thought(self):
        for tags in (True, False):
            says = [("<think>", True) if tags else "<think>", "\nHm {", ("</think>", True) if tags else "</think>", "\n\nNo JSON at all."]
            with s.Server(model(f"forced{tags}", says)) as server:
                def ask(**fields):
                    status, answer = server.post("/v1/chat/completions", {"messages": USER, "max_tokens": 500, **fields})
                    self.assertEqual(status, 200, answer)
                    self.assertNotEqual(answer["choices"][0]["finish_reason"], "length", answer)
                    return answer["choices"][0]["message"]

                message = ask(response_format=self.SCHEMA)
                self.assertEqual(message["reasoning_content"], "Hm {")
                self.assertIn(json.loads(message["content"]), [{"n": 1}, {"n": 2}])
                # No thought where the prompt has had it.
                message = ask(response_format=self.SCHEMA, chat_template_kwargs={"enable_thinking": False})
                self.assertNotIn("reasoning_content", message)
                self.assertIn(json.loads(message["content"]), [{"n": 1}, {"n": 2}])
                message = ask(tools=[ADD], tool_choice="required", parallel_tool_calls=False)
                self.assertEqual((message["reasoning_content"], message["content"]), ("Hm {", None))
                self.assertTrue(satisfies(json.loads(message["tool_calls"][0]["function"]["arguments"]), PARAMETERS))

    def test_the_prompt_opens_the_thought(self):
        with s.Server(model("forcedbegun", ["Hm {", "</think>", "\n\nNo JSON at all."])) as server:
            status, answer = server.post("/v1/chat/completions", {"messages": USER, "max_tokens": 500, "response_format": self.SCHEMA, "chat_template_kwargs": {"begin": True}})
            self.assertEqual(status, 200, answer)
            message = answer["choices"][0]["message"]
            self.assertEqual(message["reasoning_content"], "Hm {")
            self.assertIn(json.loads(message["content"]), [{"n": 1}, {"n": 2}])


if __name__ == "__main__":
    s.run("__main__")
