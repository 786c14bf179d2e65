import { DEFAULT_LIMITS } from '../../lib/chat/limits';
import type { ChatMessage } from '../../lib/chat/messages';
import { TemplateRenderer } from '../../lib/chat/renderer';
import { ChatTemplate } from '../../lib/chat/template';
import { Tokenizer } from '../../lib/tokenizer/tokenizer';
import { describeShared, readSharedJson, sharedPath } from '../fixtures/shared';
import { sharedTokenizer, type GoldenModel } from '../tokenizer/fixtures';

/** The limits but for time: a busy machine must not fail these tests. */
const limits = { timeoutMs: 20_000 };

interface GoldenChat {
  special_tokens: Record<string, string | null>;
  cases: {
    name: string;
    messages: ChatMessage[];
    add_generation_prompt: boolean;
    tools?: unknown[];
    kwargs?: Record<string, unknown>;
    rendered?: string;
    ids?: number[];
    error?: string;
  }[];
}

interface TemplateCases {
  now: string;
  cases: { name: string; chat_template: string; data: Record<string, unknown> & { messages: ChatMessage[]; tools?: unknown[]; add_generation_prompt?: boolean }; expected: string }[];
}

describe.each(['llama-2', 'llama-3.1', 'mistral-v3', 'phi-3', 'qwen3'])('golden chats of %s', (name) => {
  describeShared('of transformers 5.18.0', () => {
    it('renders and encodes every conversation, and refuses what the template refuses', async () => {
      const golden = readSharedJson<GoldenChat>('tokenizers', name, 'golden_chat.json');
      const tokenizer = sharedTokenizer(name);
      const template = new ChatTemplate(tokenizer.chatTemplates, golden.special_tokens, { limits, now: new Date(2025, 6, 10, 12) });
      for (const row of golden.cases) {
        const rendered = template.render(row.messages, { addGenerationPrompt: row.add_generation_prompt, tools: row.tools, chatTemplateKwargs: row.kwargs });
        if (row.error !== undefined) {
          await expect(rendered).rejects.toMatchObject({ code: 'ERR_KVASIR_CHAT_TEMPLATE', message: expect.stringContaining(row.error) as string });
          continue;
        }
        expect([row.name, await rendered]).toEqual([row.name, row.rendered]);
        expect([row.name, tokenizer.encode(await rendered, { addSpecialTokens: false })]).toEqual([row.name, row.ids]);
      }
      await template.close();
    });
  });
});

describeShared('chat templates of 33 more models', () => {
  const golden = (): TemplateCases => readSharedJson<TemplateCases>('prompts', 'chat_template_cases.json');

  it('render the expected texts from exactly the given variables', async () => {
    const { cases, now } = golden();
    expect(cases).toHaveLength(33);
    const renderer = new TemplateRenderer({ ...DEFAULT_LIMITS, ...limits });
    for (const row of cases) {
      const text = await renderer.render({ source: row.chat_template, variables: row.data, now: Date.parse(now) });
      expect([row.name, text]).toEqual([row.name, row.expected]);
    }
    await renderer.close();
  });

  it('render the expected texts through ChatTemplate', async () => {
    const { cases, now } = golden();
    for (const row of cases) {
      const { messages, tools, add_generation_prompt, bos_token, eos_token, ...chatTemplateKwargs } = row.data;
      const special = Object.fromEntries(Object.entries({ bos_token, eos_token }).filter(([, token]) => token !== undefined)) as Record<string, string>;
      const template = new ChatTemplate(row.chat_template, special, { limits, now: new Date(now) });
      const rendered = template.render(messages, { addGenerationPrompt: add_generation_prompt ?? false, tools, chatTemplateKwargs });
      if (row.name === 'meta-llama/Llama-3.2-11B-Vision-Instruct') {
        await expect(rendered).rejects.toMatchObject({ code: 'ERR_KVASIR_UNSUPPORTED' }); // its message has an image
      } else {
        expect([row.name, await rendered]).toEqual([row.name, row.expected]);
      }
      await template.close();
    }
  });
});

describeShared('golden chats of kvasir-tales-5m', () => {
  it('renders and encodes them', async () => {
    const tokenizer = await Tokenizer.load(sharedPath('models', 'kvasir-tales-5m'));
    const template = new ChatTemplate(tokenizer.chatTemplates, tokenizer.specialTokens, { limits });
    const chats = readSharedJson<GoldenModel>('models', 'kvasir-tales-5m', 'golden.json').chat ?? [];
    expect(chats.length).toBeGreaterThan(0);
    for (const row of chats) {
      const text = await template.render([{ role: 'user', content: row.user }]);
      expect(text).toBe(row.rendered);
      expect(tokenizer.encode(text, { addSpecialTokens: false })).toEqual(row.prompt_ids);
    }
    await template.close();
  });
});
