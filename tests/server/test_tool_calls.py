"""Calls of tools in chat and responses: read out of answers, and asked for."""
import json
import os
import unittest

import server as s
from test_api import USER, satisfies

PARAMETERS = {
    "type": "object", "properties": {"x": {"type": "integer"}, "unit": {"enum": ["m", "km"]}, "deep": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}},
    "required": ["x", "unit", "deep"], "additionalProperties": False,
}
ADD = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": PARAMETERS}}
NOW = {"type": "function", "function": {"name": "now"}}
# What a template says of each format (see src/text/tool_format.cpp), as small as can be.
FORMATS = {
    "hermes": '<tool_call>{"name": NAME, "arguments": A}</tool_call>',
    "llama3": 'ipython {"name": NAME, "parameters": A}',
    "mistral": '[TOOL_CALLS]',
    "mistral-args": '[TOOL_CALLS]NAME[ARGS]{}',
    "granite": '<|tool_call|>',
    "command-r7b": '<|START_ACTION|>[{"tool_name": NAME}]<|END_ACTION|>',
    "nemotron": '<TOOLCALL>[]</TOOLCALL>',
    "functionary": '<function=NAME></function>',
    "qwen3-coder": '<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>',
    "seed": '<seed:tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></seed:tool_call>',
    "glm": '<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>',
    "minimax": '<minimax:tool_call><invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke></minimax:tool_call>',
    "deepseek-v3": '<｜tool▁calls▁begin｜>```json',
    "deepseek-v3.1": '<｜tool▁calls▁begin｜>',
    "kimi-k2": '<|tool_calls_section_begin|>',
    "phi4": '<|tool_call|><|/tool_call|>',
    "harmony": '<|channel|>commentary to=functions.NAME <|message|>',
}


def template(says):
    return "{% if tools %}{{ tools | tojson }} " + says + "{% endif %}" + s.tiny_model.CHATML


def model(name, says, **more):
    return s.tiny_model.write(os.path.join(s.SCRATCH, name), context=40000, template=s.tiny_model.TOOLS, says=says, **more)


def join(events):
    """The message that a chat's stream adds up to, and its finish_reason."""
    message, finish = {"content": "", "tool_calls": []}, None
    for event in events[:-1]:
        choice, = event["choices"]
        message["content"] += choice["delta"].get("content") or ""
        for delta in choice["delta"].get("tool_calls", []):
            if delta["index"] == len(message["tool_calls"]):
                assert delta["id"] and delta["type"] == "function" and delta["function"]["arguments"] == "", delta
                message["tool_calls"].append({"name": delta["function"]["name"], "arguments": ""})
            message["tool_calls"][delta["index"]]["arguments"] += delta["function"]["arguments"]
        finish = choice["finish_reason"] or finish
    return message, finish


class Answers(unittest.TestCase):
    """A model that always says the same, token by token."""
    maxDiff = 4000

    def ask(self, says, tools=(ADD,), name="says", **fields):
        """(message, finish_reason) of a chat, after seeing that a stream gives the same."""
        with s.Server(model(name, says)) as server:
            body = {"messages": USER, "tools": list(tools), **fields}
            status, answer = server.post("/v1/chat/completions", body)
            self.assertEqual(status, 200, answer)
            choice, = answer["choices"]
            message, finish = join(server.stream("/v1/chat/completions", body))
            self.assertEqual((message["content"], finish), (choice["message"]["content"] or "", choice["finish_reason"]))
            if choice["finish_reason"] == "tool_calls":
                self.assertEqual(message["tool_calls"], [c["function"] for c in choice["message"]["tool_calls"]])
            return choice["message"], choice["finish_reason"]

    def test_a_call(self):
        says = ["Let me", " look.", ("<tool_call>", True), "\n{\"name\": \"add\", \"argu", "ments\": {\"x\"", ": 5}", "}\n", ("</tool_call>", True)]
        message, finish = self.ask(says)
        self.assertEqual((message["content"], finish), ("Let me look.", "tool_calls"))
        call, = message["tool_calls"]
        self.assertRegex(call["id"], "^call_[0-9A-Za-z]{24}$")
        self.assertEqual((call["type"], call["function"]), ("function", {"name": "add", "arguments": '{"x": 5}'}))
        # Nothing of it where no tools are offered, and markers that are special tokens are not shown then.
        message, finish = self.ask(says, tool_choice="none")
        self.assertEqual((message["content"], finish), ('Let me look.\n{"name": "add", "arguments": {"x": 5}}\n', "stop"))
        self.assertNotIn("tool_calls", message)

    def test_several_calls(self):
        says = ["<tool_call>{\"name\": \"add\", \"arguments\": {\"x\": 1}}</tool_call>", "\n<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>\n"]
        message, finish = self.ask(says, [ADD, NOW])
        self.assertEqual((message["content"], finish), (None, "tool_calls"))
        self.assertEqual([c["function"] for c in message["tool_calls"]], [{"name": "add", "arguments": '{"x": 1}'}, {"name": "now", "arguments": "{}"}])
        self.assertEqual(len({c["id"] for c in message["tool_calls"]}), 2)
        message, finish = self.ask(says, [ADD, NOW], parallel_tool_calls=False)
        self.assertEqual((len(message["tool_calls"]), message["content"], finish), (1, None, "tool_calls"))
        with s.Server(model("says", says)) as server:
            usage = server.chat(tools=[ADD, NOW], parallel_tool_calls=False)[1]["usage"]
        self.assertEqual(usage["completion_tokens"], 1)  # it ended there

    def test_no_calls(self):
        for says in (["<tool_call>{\"name\": \"other\", \"arguments\": {}}</tool_call>"], ["<tool_call>{\"name\": \"add\", ", "\"arguments\": {\"x\": }}</tool_call>"], ["<tool", "box> "]):
            message, finish = self.ask(says)
            self.assertEqual((message["content"], finish), ("".join(says), "stop"))
            self.assertNotIn("tool_calls", message)
        says = ["a <tool_call>", "{\"name\": \"add\", \"arguments\"", ": {\"x\": ", "5}}</tool_call>"]
        message, finish = self.ask(says, max_tokens=3)
        self.assertEqual((message["content"], finish, "tool_calls" in message), ("".join(says[:3]), "length", False))

    def test_responses(self):
        says = ["Look: ", "<tool_call>{\"name\": \"add\", \"argu", "ments\": {\"x\"", ": 5}", "}</tool_call>"]
        tool = {"type": "function", **ADD["function"]}
        with s.Server(model("says", says)) as server:
            status, body = server.post("/v1/responses", {"input": "hello", "tools": [tool]})
            self.assertEqual((status, body["status"], [item["type"] for item in body["output"]]), (200, "completed", ["message", "function_call"]))
            self.assertEqual(body["output"][0]["content"][0]["text"], "Look:")
            call = body["output"][1]
            self.assertEqual((call["name"], call["arguments"], call["status"]), ("add", '{"x": 5}', "completed"))
            _, _, text = server.request("POST", "/v1/responses", {"input": "hello", "tools": [tool], "stream": True})
            data = [json.loads(e.split("\n", 1)[1][6:]) for e in text.split("\n\n") if e.startswith("event: ")]
            self.assertEqual([d["sequence_number"] for d in data], list(range(len(data))))
            self.assertEqual([d["type"][9:] for d in data if "delta" not in d["type"]],
                             ["created", "in_progress", "output_item.added", "content_part.added", "output_text.done", "content_part.done", "output_item.done",
                              "output_item.added", "function_call_arguments.done", "output_item.done", "completed"])
            self.assertEqual("".join(d["delta"] for d in data if d["type"] == "response.function_call_arguments.delta"), '{"x": 5}')
            self.assertEqual([d["output_index"] for d in data if "output_index" in d][-1], 1)
            self.assertEqual([i["type"] for i in data[-1]["response"]["output"]], ["message", "function_call"])
            # The items go back in, with the call's result.
            history = [{"role": "user", "content": "hello"}, *body["output"], {"type": "function_call_output", "call_id": call["call_id"], "output": "6"}]
            again = server.post("/v1/responses", {"input": history, "tools": [tool]})[1]["usage"]["input_tokens"]
            for content in ({}, {"content": None}, {"content": ""}):
                sent = {"role": "assistant", **content, "tool_calls": [{"id": "x", "type": "function", "function": {"name": "add", "arguments": "{}"}}]}
                prompt = server.post("/apply-template", {"messages": [sent], "chat_template_kwargs": {}})[1]["prompt"]
                self.assertIn('<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {}}', prompt)
            messages = USER + [{"role": "assistant", "content": "Look:", "tool_calls": [{"id": "x", "type": "function", "function": {"name": "add", "arguments": '{"x": 5}'}}]},
                               {"role": "tool", "tool_call_id": "x", "content": "6"}]
            rendered = server.post("/apply-template", {"messages": messages, "tools": [ADD]})[1]
            self.assertEqual(again, rendered["count"])
            self.assertIn('<tool_call>\n{"name": "add", "arguments": {"x": 5}}\n</tool_call>', rendered["prompt"])
            for bad in ({"type": "function_call", "call_id": "x", "name": "add"}, {"type": "function_call_output", "output": "6"}, {"type": "computer_call"}):
                self.assertEqual(server.post("/v1/responses", {"input": [bad]})[0], 400, bad)


class AskedFor(unittest.TestCase):
    """Random weights, so whatever is right comes from tool_choice alone."""

    def check(self, server, n_calls, names, **fields):
        for stream in (False, True):
            body = {"messages": USER, "max_tokens": 1000, **fields}
            if stream:
                message, finish = join(server.stream("/v1/chat/completions", body))
                calls = message["tool_calls"]
            else:
                status, answer = server.post("/v1/chat/completions", body)
                self.assertEqual(status, 200, answer)
                message, finish = answer["choices"][0]["message"], answer["choices"][0]["finish_reason"]
                if finish == "tool_calls":
                    self.assertIsNone(message["content"], answer)
                calls = [c["function"] for c in message["tool_calls"]]
            self.assertIn(finish, ("tool_calls",) if n_calls else ("tool_calls", "length"))
            self.assertGreaterEqual(len(calls), 1)
            if n_calls:
                self.assertEqual(len(calls), n_calls, calls)
            for call in calls:
                self.assertIn(call["name"], names)
                if stream and finish == "length" and call is calls[-1]:
                    continue  # announced, and then cut off
                self.assertTrue(satisfies(json.loads(call["arguments"]), PARAMETERS if call["name"] == "add" else {"type": "object"}), call)
                if call["name"] == "now":
                    self.assertEqual(json.loads(call["arguments"]), {})

    def test_every_format(self):
        for name, says in FORMATS.items():
            path = os.path.join(s.SCRATCH, name + ".jinja")
            with open(path, "w") as file:
                file.write(template(says))
            with self.subTest(name), s.Server(s.roomy_model(), "--chat-template", path) as server:
                for seed in range(3):
                    more = {"temperature": 1.5, "seed": seed} if seed else {}
                    self.check(server, 1, ["add", "now"], tools=[ADD, NOW], tool_choice="required", parallel_tool_calls=False, **more)
                    self.check(server, 1, ["add"], tools=[NOW, ADD], tool_choice={"type": "function", "function": {"name": "add"}}, **more)
                self.check(server, 0, ["now"], tools=[NOW], tool_choice="required", max_tokens=300)
                strict = {"type": "function", "function": {**ADD["function"], "strict": True}}
                self.check(server, 1, ["add"], tools=[strict], tool_choice="required", parallel_tool_calls=False)

    def test_markers_are_tokens_where_the_vocabulary_has_them(self):
        with s.Server(model("tokens", ["<tool_call>", "</tool_call>"])) as server:
            body = server.chat(tools=[NOW], tool_choice="required", parallel_tool_calls=False, logprobs=True, max_tokens=300)[1]
            choice, = body["choices"]
            call, = choice["message"]["tool_calls"]
            self.assertEqual((call["function"]["name"], json.loads(call["function"]["arguments"])), ("now", {}))
            tokens = [t["token"] for t in choice["logprobs"]["content"]]
            self.assertEqual(tokens[0], "<tool_call>")
            self.assertNotIn("<tool_call>", tokens[1:])

    def test_strict_where_the_model_chooses(self):
        """What it says freely begins a call, which then has to be one: whatever the model would rather say."""
        tool = {"type": "function", "function": {**ADD["function"], "strict": True}}
        says = ["Well ", "<tool_call>", "\n{\"name\": \"add\", \"arguments\": {\"y\": 5}}\n"]
        for bounds in ({}, {"temperature": 1.2, "seed": 3}):
            with s.Server(model("strict", says)) as server:
                body = {"messages": USER, "max_tokens": 600, "parallel_tool_calls": False, **bounds}
                free = server.post("/v1/chat/completions", {**body, "tools": [ADD]})[1]["choices"][0]
                if not bounds:
                    self.assertEqual(free["message"]["tool_calls"][0]["function"]["arguments"], '{"y": 5}')
                choice = server.post("/v1/chat/completions", {**body, "tools": [tool]})[1]["choices"][0]
                if bounds and choice["finish_reason"] != "tool_calls":
                    continue  # it did not begin one
                self.assertEqual((choice["finish_reason"], choice["message"]["content"]), ("tool_calls", "Well"), choice)
                self.assertTrue(satisfies(json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]), PARAMETERS), choice)

    def test_a_template_with_its_own_name_for_tools(self):
        template = "{% if xml_tools %}{{ xml_tools[:] | tojson }}<tool_call>{\"name\": NAME, \"arguments\": A}</tool_call>{% endif %}" + s.tiny_model.CHATML
        with s.Server(s.tiny_model.write(os.path.join(s.SCRATCH, "named"), context=40000, template=template)) as server:
            rendered = server.post("/apply-template", {"messages": USER, "tools": [NOW]})[1]["prompt"]
            self.assertTrue(rendered.startswith('[{"type": "function", "function": {"name": "now"}}]<tool_call>'), rendered)
            self.assertEqual(server.chat(tools=[NOW], tool_choice="required", parallel_tool_calls=False, max_tokens=300)[1]["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "now")
            self.assertNotIn("now", server.post("/apply-template", {"messages": USER, "tools": [NOW], "tool_choice": "none"})[1]["prompt"])

    def test_refusals(self):
        def refusal(server, **fields):
            status, body = server.post("/v1/chat/completions", {"messages": USER, "max_tokens": 1, **fields})
            self.assertEqual(status, 400, body)
            return body["error"]["message"]

        strict = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object", "properties": {"when": {"type": "string", "format": "date"}}}}}
        loose = {"type": "function", "function": {**strict["function"], "strict": False}}
        with s.Server(model("refusals", [])) as server:
            self.assertIn("f: schema.properties.when: keyword 'format'", refusal(server, tools=[strict], tool_choice="required"))
            self.assertEqual(server.chat(tools=[loose], tool_choice="required", max_tokens=1)[0], 200)
            self.assertIn("keyword 'format'", refusal(server, tools=[strict]))
            self.assertIn("tool_choice", refusal(server, tool_choice="required"))
            self.assertIn("another function", refusal(server, tools=[NOW], tool_choice={"type": "function", "function": {"name": "f"}}))
            for bad in ("any", 5, {"type": "function"}, {"type": "function", "function": {"name": 5}}, {"type": "allowed_tools"}):
                self.assertIn("tool_choice", refusal(server, tools=[NOW], tool_choice=bad))
            self.assertIn("parallel_tool_calls", refusal(server, tools=[NOW], parallel_tool_calls="no"))
        with s.Server(s.tiny_model.write(os.path.join(s.SCRATCH, "unasked"), context=40000, template=template("<start_function_call>"))) as server:
            self.assertIn("cannot be asked for", refusal(server, tools=[NOW], tool_choice="required"))
            self.assertEqual(server.chat(tools=[NOW], max_tokens=3)[1]["choices"][0]["message"]["content"], "ABC")
        with s.Server(s.tiny_model.write(os.path.join(s.SCRATCH, "unknown"), template=template("nothing"))) as server:
            self.assertIn("not known", refusal(server, tools=[NOW], tool_choice="required"))
            self.assertEqual(server.chat(tools=[NOW], max_tokens=3)[1]["choices"][0]["message"]["content"], "ABC")


if __name__ == "__main__":
    s.run("__main__")
