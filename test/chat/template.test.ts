import { ChatTemplate, type RenderOptions } from '../../lib/chat/template';
import type { ChatMessage } from '../../lib/chat/messages';

const CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
const templates: ChatTemplate[] = [];

function template(source: ConstructorParameters<typeof ChatTemplate>[0], special: Record<string, string | null> = {}): ChatTemplate {
  const made = new ChatTemplate(source, special, { limits: { timeoutMs: 20_000 }, now: new Date(2024, 0, 5, 13, 4, 9) });
  templates.push(made);
  return made;
}

const user = (content: ChatMessage['content']): ChatMessage[] => [{ role: 'user', content }];
const failsWith = (code: string, part = ''): unknown => expect.objectContaining({ code, message: expect.stringContaining(part) as string });

afterAll(() => Promise.all(templates.map((made) => made.close())));

describe('ChatTemplate', () => {
  it('opens the answer unless told otherwise', async () => {
    const chatml = template(CHATML);
    expect(await chatml.render(user('hi'))).toBe('<user>hi<end><assistant>');
    expect(await chatml.render(user('hi'), { addGenerationPrompt: false })).toBe('<user>hi<end>');
  });

  it('renders calls made at the same time in order', async () => {
    const chatml = template(CHATML);
    const texts = await Promise.all(['a', 'b', 'c'].map((content) => chatml.render(user(content), { addGenerationPrompt: false })));
    expect(texts).toEqual(['<user>a<end>', '<user>b<end>', '<user>c<end>']);
  });

  it('joins text parts, and refuses other parts', async () => {
    const chatml = template(CHATML);
    const parts = [{ type: 'text' as const, text: 'a' }, { type: 'text' as const, text: 'b' }];
    expect(await chatml.render(user(parts), { addGenerationPrompt: false })).toBe('<user>a\nb<end>');
    const image = [{ type: 'image_url', image_url: { url: 'data:' } }] as never;
    await expect(chatml.render(user(image))).rejects.toEqual(failsWith('ERR_KVASIR_UNSUPPORTED', 'image_url'));
  });

  it('gives special tokens, and only those there are', async () => {
    const text = await template("{{ bos_token }}|{{ eos_token is defined }}|{{ pad_token is defined }}", { bos_token: '<s>', eos_token: '</s>', pad_token: null }).render(user('x'));
    expect(text.toLowerCase()).toBe('<s>|true|false');
  });

  it('gives tools, and takes the template named tool_use for them', async () => {
    const tools = [{ type: 'function', function: { name: 'add' } }];
    const named = template(new Map([['default', 'plain'], ['tool_use', '{{ tools[0].function.name }}']]));
    expect(await named.render(user('x'))).toBe('plain');
    expect(await named.render(user('x'), { tools: [] })).toBe('plain');
    expect(await named.render(user('x'), { tools })).toBe('add');
    expect(await template('{{ tools is none }}').render(user('x'))).toMatch(/true/i);
  });

  it('turns the arguments of tool calls from JSON text into objects', async () => {
    const call = (text: string): ChatMessage[] => [{ role: 'assistant', content: null, tool_calls: [{ type: 'function', function: { name: 'f', arguments: text } }] }];
    const source = '{% for k, v in messages[0].tool_calls[0].function.arguments.items() %}{{ k }}={{ v }};{% endfor %}';
    expect(await template(source).render(call('{"a": 1, "b": "x"}'))).toBe('a=1;b=x;');
    expect(await template(source).render(call(''))).toBe('');
    await expect(template(source).render(call('{a'))).rejects.toEqual(failsWith('ERR_KVASIR_CHAT_TEMPLATE', 'arguments'));
  });

  it('shows the time in English', async () => {
    expect(await template("{{ strftime_now('%d %b %Y, %A %B %H:%M:%S %I %p %y %m %a %% %Q') }}").render(user('x'))).toBe('05 Jan 2024, Friday January 13:04:09 01 PM 24 01 Fri % %Q');
  });

  it('passes what a template raises on', async () => {
    const raising = template("{{ raise_exception('roles must alternate') }}");
    await expect(raising.render(user('x'))).rejects.toEqual(failsWith('ERR_KVASIR_CHAT_TEMPLATE', 'roles must alternate'));
  });

  it.each(['{% for %}', '{{ 1 + }}', '{% if x %}', '{{ messages.foo() }}', '{{ x | nosuchfilter }}'])('reports a broken template: %s', async (source) => {
    await expect(template(source).render(user('x'))).rejects.toEqual(failsWith('ERR_KVASIR_CHAT_TEMPLATE', 'the chat template'));
  });

  it('says what to add where there is no template', async () => {
    await expect(template(null).render(user('x'))).rejects.toEqual(failsWith('ERR_KVASIR_CHAT_TEMPLATE', 'chat_template.jinja'));
    await expect(template(new Map([['rag', 'x']])).render(user('x'))).rejects.toEqual(failsWith('ERR_KVASIR_CHAT_TEMPLATE', 'rag'));
  });
});

describe('continueFinalMessage', () => {
  const talk = (content: string): ChatMessage[] => [...user('hi'), { role: 'assistant', content }];

  it.each([
    ['Once upon', '<user>hi<end><assistant>Once upon'],
    ['Once upon ', '<user>hi<end><assistant>Once upon '],
    ['  Once', '<user>hi<end><assistant>  Once'],
    ['hi', '<user>hi<end><assistant>hi'],
  ])('leaves %j open', async (content, expected) => {
    expect(await template(CHATML).render(talk(content), { continueFinalMessage: true })).toBe(expected);
  });

  it('follows a template that trims', async () => {
    const text = await template(CHATML.replace('m.content', 'm.content | trim')).render(talk(' so '), { continueFinalMessage: true });
    expect(text).toBe('<user>hi<end><assistant>so');
  });

  it('refuses what cannot be continued', async () => {
    const both = template(CHATML).render(talk('a'), { continueFinalMessage: true, addGenerationPrompt: true });
    await expect(both).rejects.toEqual(failsWith('ERR_KVASIR_CHAT_TEMPLATE', 'both'));
    await expect(template('fixed').render(talk('a'), { continueFinalMessage: true })).rejects.toEqual(failsWith('ERR_KVASIR_CHAT_TEMPLATE'));
    const noText = [{ role: 'assistant', content: null }];
    await expect(template(CHATML).render(noText, { continueFinalMessage: true })).rejects.toEqual(failsWith('ERR_KVASIR_CHAT_TEMPLATE'));
  });
});

describe('what requests may carry', () => {
  const kwargs = (chatTemplateKwargs: unknown): RenderOptions => ({ chatTemplateKwargs }) as RenderOptions;

  it('arguments of the template, of any JSON form', async () => {
    const text = await template('{{ flag }}{{ list | length }}{{ deep.a.b }}').render(user('x'), kwargs({ flag: false, list: [1, 2], deep: { a: { b: 'c' } } }));
    expect(text.toLowerCase()).toBe('false2c');
  });

  it.each(['messages', 'tools', 'add_generation_prompt', 'bos_token', 'range', 'raise_exception', 'namespace', 'chat_template', 'tokenize', 'True', 'a b', ''])(
    'no argument named %j',
    async (name) => {
      await expect(template(CHATML).render(user('x'), kwargs({ [name]: 1 }))).rejects.toEqual(failsWith('ERR_KVASIR_CHAT_TEMPLATE'));
    },
  );

  const circular: Record<string, unknown> = {};
  circular.self = circular;
  it.each([[() => 1], [1n], [NaN], [Infinity], [new Date()], [new Map()], [Symbol('x')], [circular]])('no argument like %p', async (value) => {
    await expect(template(CHATML).render(user('x'), kwargs({ value }))).rejects.toEqual(failsWith('ERR_KVASIR_CHAT_TEMPLATE', 'chatTemplateKwargs'));
  });

  it.each<[string, unknown]>([
    ['no messages', []],
    ['a string', 'hi'],
    ['null', null],
    ['a message that is no object', ['hi']],
    ['a message without a role', [{ content: 'x' }]],
    ['a role that is no string', [{ role: 1, content: 'x' }]],
    ['content that is a number', [{ role: 'user', content: 5 }]],
    ['a part that is no object', [{ role: 'user', content: ['x'] }]],
    ['a part without text', [{ role: 'user', content: [{ type: 'text' }] }]],
    ['too deep', [{ role: 'user', content: 'x', extra: Array.from({ length: 100 }).reduce((inner) => [inner], []) }]],
  ])('no messages of another form: %s', async (_name, messages) => {
    await expect(template(CHATML).render(messages as ChatMessage[])).rejects.toEqual(failsWith('ERR_KVASIR_CHAT_TEMPLATE', 'messages'));
  });

  it('no tools that are no list', async () => {
    await expect(template(CHATML).render(user('x'), { tools: {} as never })).rejects.toEqual(failsWith('ERR_KVASIR_CHAT_TEMPLATE', 'tools'));
  });

  it('no way to the host: prototypes are out of reach', async () => {
    const probes = ["{{ messages.constructor }}", "{{ messages[0].__proto__ }}", "{{ ''.constructor.constructor }}", '{{ process is defined }}', '{{ require is defined }}', "{{ range.constructor }}"];
    for (const probe of probes) expect((await template(probe).render(user('x'))).toLowerCase()).toMatch(/^(undefined|none|null|false)?$/);
    const extra = JSON.parse('{"role": "user", "content": "x", "__proto__": {"polluted": 1}}') as ChatMessage;
    expect(await template(CHATML).render([extra])).toBe('<user>x<end><assistant>');
    expect(({} as { polluted?: number }).polluted).toBeUndefined();
  });
});
