import { execFileSync } from 'node:child_process';
import * as path from 'node:path';
import { DEFAULT_LIMITS } from '../../lib/chat/limits';
import { RENDER_THREAD_SOURCE } from '../../lib/chat/render-thread';
import { ChatTemplate } from '../../lib/chat/template';

const message = [{ role: 'user', content: 'x' }];
const tooMuch = expect.objectContaining({ code: 'ERR_KVASIR_CHAT_TEMPLATE', message: expect.stringContaining('exceeds its limits') as string }) as unknown;

/** The interpreter swallows some stack overflows while it looks names up; the rendering then fails on the missing name. */
const failed = expect.objectContaining({ code: 'ERR_KVASIR_CHAT_TEMPLATE', message: expect.stringMatching(/exceeds its limits|failed/) as string }) as unknown;

/** Templates that would block the event loop, exhaust memory, or end the process without a fence. */
const BOMBS: [string, string][] = [
  ['range(1e9)', '{{ range(1000000000) | length }}'],
  ['range(3e8) of arguments', '{{ range(0, 300000000, 1) | length }}'],
  ['nested loops', '{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}'],
  ['20k parentheses', `{{ ${'('.repeat(20_000)}1${')'.repeat(20_000)} }}`],
  ['endless recursion', '{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}'],
  ['a string doubled 60 times', `{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}`],
  ['a list doubled 60 times', '{% set ns = namespace(s=[1, 2]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s | length }}'],
  ['a huge indentation', "{{ 'a\nb' | indent(1000000000) }}"],
  ['an output of 100 MB', `{% for i in range(100000) %}${'x'.repeat(1000)}{% endfor %}`],
];

describe('the fence around chat templates', () => {
  it.each(BOMBS)('stops %s, and the next rendering works', async (name, source) => {
    const limits = { timeoutMs: 5000 };
    const templates = new Map([['default', '{{ messages[0].content }}'], ['tool_use', source]]);
    const template = new ChatTemplate(templates, {}, { limits });
    await expect(template.render(message, { tools: [{}] })).rejects.toEqual(name === 'endless recursion' ? failed : tooMuch);
    expect(await template.render(message)).toBe('x');
    await template.close();
  });

  it('keeps to its time, and does not block the event loop', async () => {
    const template = new ChatTemplate(new Map([['default', 'ok'], ['tool_use', BOMBS[2]?.[1] ?? '']]), {}, { limits: { timeoutMs: 300 } });
    let ticks = 0;
    const ticking = setInterval(() => ticks++, 10);
    const [bomb, next] = await Promise.allSettled([template.render(message, { tools: [{}] }), template.render(message)]);
    clearInterval(ticking);
    expect(bomb).toMatchObject({ status: 'rejected', reason: { code: 'ERR_KVASIR_CHAT_TEMPLATE', message: expect.stringContaining('300 ms') as string } });
    expect(next).toMatchObject({ status: 'fulfilled', value: 'ok' });
    expect(ticks).toBeGreaterThan(5);
    await template.close();
  });

  it('bounds template and output', async () => {
    const limits = { ...DEFAULT_LIMITS, maxTemplateLength: 100, maxOutputLength: 10, timeoutMs: 20_000 };
    expect(() => new ChatTemplate('x'.repeat(101), {}, { limits })).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_CHAT_TEMPLATE' }));
    const template = new ChatTemplate('{{ messages[0].content }}', {}, { limits });
    await expect(template.render([{ role: 'user', content: 'x'.repeat(11) }])).rejects.toEqual(tooMuch);
    expect(await template.render([{ role: 'user', content: 'x'.repeat(10) }])).toBe('x'.repeat(10));
    await template.close();
  });

  it('ranges as Python does, up to the bound', async () => {
    const template = new ChatTemplate("{{ range(3) | join(',') }};{{ range(2, 5) | join(',') }};{{ range(5, 0, -2) | join(',') }};{{ range(3, 1) | length }};{{ range(100000) | length }}", {}, { limits: { timeoutMs: 20_000 } });
    expect(await template.render(message)).toBe('0,1,2;2,3,4;5,3,1;0;100000');
    await template.close();
  });

  it('close() fails what still runs, refuses what comes later, and may be called twice', async () => {
    const template = new ChatTemplate(BOMBS[2]?.[1] ?? '', {}, { limits: { timeoutMs: 60_000 } });
    const running = [template.render(message), template.render(message)].map((each) => each.then(() => 'ok', (error: { code: string }) => error.code));
    await template.close();
    await template.close();
    expect(await Promise.all(running)).toEqual(['ERR_KVASIR_CLOSED', 'ERR_KVASIR_CLOSED']);
    await expect(template.render(message)).rejects.toMatchObject({ code: 'ERR_KVASIR_CLOSED' });
    await new ChatTemplate('never used').close();
  });

  it('an idle thread does not keep the process alive', () => {
    const script = `
      const { Worker } = require('node:worker_threads');
      const worker = new Worker(${JSON.stringify(RENDER_THREAD_SOURCE)}, { eval: true, workerData: { jinja: require.resolve('@huggingface/jinja'), maxOutputLength: 100, maxRange: 10 } });
      worker.on('message', (answer) => { if (answer !== 'ready') { console.log(answer.text); worker.unref(); } });
      worker.postMessage({ source: 'done', variables: {}, now: null });`;
    const output = execFileSync(process.execPath, ['--disallow-code-generation-from-strings', '-e', script], { cwd: path.resolve(__dirname, '../..'), encoding: 'utf8', timeout: 30_000 });
    expect(output).toBe('done\n');
  });
});
