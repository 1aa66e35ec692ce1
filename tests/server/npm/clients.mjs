// Clients that nobody here wrote, against running servers: clients.mjs URL URL_OF_A_MODEL_WITH_TOOLS. Prints `N passed, N failed`.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, jsonSchema, Output, streamText, tool } from 'ai';

const url = process.argv[2];
const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ';
const messages = [{ role: 'user', content: 'hello' }];
const client = new OpenAI({ baseURL: url + '/v1', apiKey: 'none', maxRetries: 0 });
const provider = createOpenAICompatible({ name: 'engine', baseURL: url + '/v1', includeUsage: true });


const toolsUrl = process.argv[3];
const toolsClient = new OpenAI({ baseURL: toolsUrl + '/v1', apiKey: 'none', maxRetries: 0 });
const parameters = {
  type: 'object', properties: { city: { enum: ['Oslo', 'Rome'] }, days: { type: 'integer' } }, required: ['city', 'days'], additionalProperties: false,
};
const weather = { type: 'function', function: { name: 'get_weather', description: 'tells the weather', parameters, strict: true } };
const callWeather = { model: 'roomy', messages, tools: [weather], tool_choice: 'required', parallel_tool_calls: false, max_tokens: 1000 };
function checkArguments(text) {
  const { city, days } = JSON.parse(text);
  assert.ok(['Oslo', 'Rome'].includes(city) && Number.isInteger(days), text);
}

const tests = {
  async 'openai: models'() {
    const page = await client.models.list();
    assert.equal(page.data[0].id, 'alphabet');
  },
  async 'openai: chat'() {
    const answer = await client.chat.completions.create({ model: 'alphabet', messages });
    assert.equal(answer.choices[0].message.content, alphabet);
    assert.equal(answer.choices[0].finish_reason, 'stop');
    assert.equal(answer.usage.completion_tokens, 27);
  },
  async 'openai: chat, streamed'() {
    const stream = await client.chat.completions.create({ model: 'alphabet', messages, stream: true, stream_options: { include_usage: true } });
    let text = '', usage = null;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? '';
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, alphabet);
    assert.equal(usage.completion_tokens, 27);
  },
  async 'openai: the helper that puts a stream together'() {
    const final = await client.chat.completions.stream({ model: 'alphabet', messages, logprobs: true, top_logprobs: 2 }).finalChatCompletion();
    assert.equal(final.choices[0].message.content, alphabet);
    assert.equal(final.choices[0].logprobs.content.length, 27);
  },
  async 'openai: completions'() {
    const answer = await client.completions.create({ model: 'alphabet', prompt: 'abc', max_tokens: 3, stop: ['f'] });
    assert.equal(answer.choices[0].text, 'de');
  },
  async 'openai: a form'() {
    const schema = { type: 'object', properties: { letters: { enum: ['ABC', 'XYZ'] } }, required: ['letters'], additionalProperties: false };
    const answer = await client.chat.completions.create({
      model: 'alphabet', messages, response_format: { type: 'json_schema', json_schema: { name: 'letters', schema, strict: true } },
    });
    assert.ok(['ABC', 'XYZ'].includes(JSON.parse(answer.choices[0].message.content).letters));
    assert.equal(answer.choices[0].finish_reason, 'stop');
    const response = await client.responses.parse({
      model: 'alphabet', input: 'hello', text: { format: { type: 'json_schema', name: 'letters', schema, strict: true } },
    });
    assert.ok(['ABC', 'XYZ'].includes(JSON.parse(response.output_text).letters));
  },
  async 'openai: responses'() {
    const answer = await client.responses.create({ model: 'alphabet', instructions: 'be brief', input: 'hello' });
    assert.equal(answer.output_text, alphabet);
    assert.equal(answer.status, 'completed');
    assert.equal(answer.usage.output_tokens, 27);
    const short = await client.responses.create({ model: 'alphabet', input: [{ role: 'user', content: [{ type: 'input_text', text: 'hello' }] }], max_output_tokens: 3 });
    assert.equal(short.output_text, 'ABC');
    assert.deepEqual([short.status, short.incomplete_details.reason], ['incomplete', 'max_output_tokens']);
  },
  async 'openai: responses, streamed'() {
    const stream = client.responses.stream({ model: 'alphabet', input: 'hello' });
    let text = '';
    stream.on('response.output_text.delta', (event) => { text += event.delta; });
    const final = await stream.finalResponse();
    assert.equal(text, alphabet);
    assert.equal(final.output_text, alphabet);
    assert.equal(final.usage.output_tokens, 27);
  },
  async 'openai: a tool call, and its result'() {
    const answer = await toolsClient.chat.completions.create(callWeather);
    const [choice] = answer.choices;
    assert.equal(choice.finish_reason, 'tool_calls');
    assert.equal(choice.message.content, null);
    const [call] = choice.message.tool_calls;
    assert.deepEqual([choice.message.tool_calls.length, call.type, call.function.name], [1, 'function', 'get_weather']);
    checkArguments(call.function.arguments);
    const next = await toolsClient.chat.completions.create({
      ...callWeather, tool_choice: 'auto', max_tokens: 5, messages: [...messages, choice.message, { role: 'tool', tool_call_id: call.id, content: 'rain' }],
    });
    assert.equal(next.choices[0].message.role, 'assistant');
  },
  async 'openai: a tool call, streamed'() {
    const stream = toolsClient.chat.completions.stream({ ...callWeather, tool_choice: { type: 'function', function: { name: 'get_weather' } } });
    const pieces = [];
    stream.on('tool_calls.function.arguments.delta', (event) => pieces.push(event.arguments_delta));
    const final = await stream.finalChatCompletion();
    assert.equal(final.choices[0].finish_reason, 'tool_calls');
    const [call] = final.choices[0].message.tool_calls;
    checkArguments(call.function.arguments);
    assert.ok(pieces.length > 1, 'arguments come in one piece');
    assert.equal(pieces.join(''), call.function.arguments);
  },
  async 'openai: a tool call in responses, streamed and not'() {
    const request = {
      model: 'roomy', input: 'hello', tools: [{ type: 'function', name: 'get_weather', parameters, strict: true }], tool_choice: 'required',
      parallel_tool_calls: false, max_output_tokens: 1000,
    };
    const answer = await toolsClient.responses.create(request);
    assert.deepEqual(answer.output.map((item) => [item.type, item.name, item.status]), [['function_call', 'get_weather', 'completed']]);
    checkArguments(answer.output[0].arguments);
    const stream = toolsClient.responses.stream(request);
    let text = '';
    stream.on('response.function_call_arguments.delta', (event) => { text += event.delta; });
    const final = await stream.finalResponse();
    assert.equal(final.output[0].arguments, text);
    checkArguments(text);
    const [call] = final.output;
    const next = await toolsClient.responses.create({
      ...request, tool_choice: 'auto', max_output_tokens: 5,
      input: [{ role: 'user', content: 'hello' }, call, { type: 'function_call_output', call_id: call.call_id, output: 'rain' }],
    });
    assert.equal(next.object, 'response');
  },
  async 'openai: errors'() {
    await assert.rejects(client.responses.create({ model: 'alphabet', input: 'x', previous_response_id: 'resp_1' }), (e) => e.param === 'previous_response_id');
    await assert.rejects(client.chat.completions.create({ model: 'other', messages }), (e) => e instanceof OpenAI.NotFoundError && e.code === 'model_not_found');
    await assert.rejects(client.chat.completions.create({ model: 'alphabet', messages, temperature: 'hot' }), (e) => e instanceof OpenAI.BadRequestError);
    await assert.rejects(client.chat.completions.create({ model: 'alphabet', messages, nonsense: 1 }), (e) => e.param === 'nonsense');
    await assert.rejects(client.chat.completions.create({ model: 'alphabet', messages: [] }), (e) => e.status === 400 && e.type === 'invalid_request_error');
  },
  async 'openai: a stream given up'() {
    const stream = await client.completions.create({ model: 'alphabet', prompt: 'a', max_tokens: 100000, stream: true });
    for await (const chunk of stream) {
      assert.ok(chunk.choices[0].text.length > 0);
      break;
    }
    for (let i = 0; ; i++) {
      const metrics = await (await fetch(url + '/metrics')).text();
      if (/^engine_running 0$/m.test(metrics)) break;
      assert.ok(i < 200, 'it goes on computing');
      await new Promise((done) => setTimeout(done, 25));
    }
  },
  async 'ai: generateText'() {
    const { text, usage, finishReason } = await generateText({ model: provider.chatModel('alphabet'), system: 'be brief', prompt: 'hello', temperature: 0 });
    assert.equal(text, alphabet);
    assert.equal(finishReason, 'stop');
    assert.equal(usage.outputTokens, 27);
  },
  async 'ai: generateText with an output'() {
    const structured = createOpenAICompatible({ name: 'engine', baseURL: url + '/v1', supportsStructuredOutputs: true });
    const schema = jsonSchema({ type: 'object', properties: { letters: { enum: ['ABC', 'XYZ'] } }, required: ['letters'], additionalProperties: false });
    const { output, finishReason } = await generateText({ model: structured.chatModel('alphabet'), output: Output.object({ schema }), prompt: 'hello', temperature: 0 });
    assert.ok(['ABC', 'XYZ'].includes(output.letters));
    assert.equal(finishReason, 'stop');
  },
  async 'ai: a tool call, streamed and not'() {
    const model = createOpenAICompatible({ name: 'engine', baseURL: toolsUrl + '/v1' }).chatModel('roomy');
    const request = {
      model, prompt: 'hello', temperature: 0, maxOutputTokens: 1000, toolChoice: { type: 'tool', toolName: 'get_weather' },
      tools: { get_weather: tool({ description: 'tells the weather', inputSchema: jsonSchema(parameters) }) },
    };
    const answer = await generateText(request);
    assert.equal(answer.finishReason, 'tool-calls');
    assert.deepEqual(answer.toolCalls.map((call) => call.toolName), ['get_weather']);
    checkArguments(JSON.stringify(answer.toolCalls[0].input));
    const streamed = streamText(request);
    const calls = await streamed.toolCalls;
    assert.deepEqual(calls.map((call) => [call.toolName, call.input]), answer.toolCalls.map((call) => [call.toolName, call.input]));
    assert.equal(await streamed.finishReason, 'tool-calls');
  },
  async 'ai: streamText'() {
    const result = streamText({ model: provider.chatModel('alphabet'), messages, maxOutputTokens: 10 });
    let text = '';
    for await (const part of result.textStream) text += part;
    assert.equal(text, alphabet.slice(0, 10));
    assert.equal(await result.finishReason, 'length');
    assert.equal((await result.usage).outputTokens, 10);
  },
};

let passed = 0, failed = 0;
for (const [name, run] of Object.entries(tests)) {
  try {
    await run();
    passed++;
    console.log('ok    ' + name);
  } catch (error) {
    failed++;
    console.log('FAIL  ' + name + '\n' + (error.stack || error));
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
