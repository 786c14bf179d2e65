import { KvasirError } from '../utils/errors';
import { DEFAULT_LIMITS, type ChatTemplateLimits } from './limits';
import { normalizeMessages, type ChatMessage } from './messages';
import { toPlainJson, type JsonValue } from './plain-json';
import { TemplateRenderer } from './renderer';

/** One template, several by name ('default', 'tool_use', ...), or none. */
export type ChatTemplateSource = string | ReadonlyMap<string, string> | null;

export interface ChatTemplateOptions {
  readonly limits?: Partial<ChatTemplateLimits>;
  /** The time that strftime_now shows; the clock when left out. */
  readonly now?: Date;
}

export interface RenderOptions {
  /** End with what opens the assistant's answer. Default true, and false with continueFinalMessage. */
  addGenerationPrompt?: boolean;
  /** Leave the last message open, so that the model goes on with it. */
  continueFinalMessage?: boolean;
  /** Tools in OpenAI's format; a template named 'tool_use' is taken when there is one. */
  tools?: readonly unknown[] | null;
  /** Further variables for the template (enable_thinking, documents, ...): JSON values. */
  chatTemplateKwargs?: Readonly<Record<string, unknown>>;
}

/**
 * Names that template arguments may not take: what this class sets, what the interpreter declares, and options of the same
 * functions elsewhere, where overriding them was a hole (CVE-2025-62426).
 */
const RESERVED = new Set(
  `messages tools add_generation_prompt continue_final_message bos_token eos_token unk_token sep_token pad_token cls_token mask_token
  true false none True False None range raise_exception strftime_now namespace loop caller varargs kwargs self
  chat_template conversation tokenize tokenizer return_dict return_tensors padding truncation max_length tokenizer_kwargs`.split(/\s+/),
);

function refuse(message: string): KvasirError {
  return new KvasirError('ERR_KVASIR_CHAT_TEMPLATE', message);
}

/**
 * A model's chat template (transformers' apply_chat_template): messages in, prompt text out. The text holds the special
 * tokens already: encode it with addSpecialTokens false.
 */
export class ChatTemplate {
  private readonly templates: ReadonlyMap<string, string>;
  private readonly renderer: TemplateRenderer;

  /** @param specialTokens bos_token, eos_token, ... as the template sees them */
  constructor(
    source: ChatTemplateSource,
    private readonly specialTokens: Readonly<Record<string, string | null>> = {},
    private readonly options: ChatTemplateOptions = {},
  ) {
    const limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.templates = typeof source === 'string' ? new Map([['default', source]]) : new Map(source ?? []);
    for (const [name, template] of this.templates) {
      if (template.length > limits.maxTemplateLength) {
        throw refuse(`chat template "${name}": expected at most ${limits.maxTemplateLength} characters, received ${template.length}`);
      }
    }
    this.renderer = new TemplateRenderer(limits);
  }

  /**
   * The prompt for a conversation.
   * @throws KvasirError ERR_KVASIR_CHAT_TEMPLATE without a template, for messages or arguments of the wrong form, when the
   * template raises an exception or exceeds its limits; ERR_KVASIR_UNSUPPORTED for parts that are no text; ERR_KVASIR_CLOSED.
   */
  async render(messages: readonly ChatMessage[], options: RenderOptions = {}): Promise<string> {
    const continues = options.continueFinalMessage ?? false;
    if (continues && options.addGenerationPrompt === true) {
      throw refuse('addGenerationPrompt and continueFinalMessage: expected at most one to be true, received both');
    }
    const conversation = normalizeMessages(messages);
    const tools = toolsOf(options.tools);
    const text = await this.renderer.render({
      source: this.pick(tools !== null),
      variables: {
        documents: null,
        ...argumentsOf(options.chatTemplateKwargs),
        ...Object.fromEntries(Object.entries(this.specialTokens).filter(([, token]) => token !== null)),
        messages: conversation,
        tools,
        add_generation_prompt: options.addGenerationPrompt ?? !continues,
      },
      now: this.options.now?.getTime() ?? null,
    });
    return continues ? cutAfterFinalMessage(text, conversation.at(-1)?.content) : text;
  }

  /** Ends the rendering thread, if one was ever started. Idempotent. */
  async close(): Promise<void> {
    await this.renderer.close();
  }

  private pick(hasTools: boolean): string {
    const template = (hasTools ? this.templates.get('tool_use') : undefined) ?? this.templates.get('default');
    if (template !== undefined) return template;
    if (this.templates.size > 0) throw refuse(`expected a chat template named "default", the model has only ${[...this.templates.keys()].join(', ')}`);
    throw refuse('the model has no chat template: add chat_template.jinja to its directory (or chat_template to tokenizer_config.json), or use plain prompts');
  }
}

function toolsOf(tools: RenderOptions['tools']): JsonValue[] | null {
  if (tools === undefined || tools === null) return null;
  if (!Array.isArray(tools)) throw refuse(`tools: expected a list, received ${typeof tools}`);
  return tools.length === 0 ? null : (toPlainJson(tools, 'tools') as JsonValue[]);
}

function argumentsOf(kwargs: RenderOptions['chatTemplateKwargs']): Record<string, JsonValue> {
  if (kwargs === undefined || kwargs === null) return {};
  if (typeof kwargs !== 'object' || Array.isArray(kwargs)) throw refuse('chatTemplateKwargs: expected an object');
  for (const name of Object.keys(kwargs)) {
    if (RESERVED.has(name)) throw refuse(`chatTemplateKwargs: expected names of your own, received the reserved name ${JSON.stringify(name)}`);
    if (!/^[A-Za-z_]\w{0,127}$/.test(name)) throw refuse(`chatTemplateKwargs: expected names like "enable_thinking", received ${JSON.stringify(name.slice(0, 64))}`);
  }
  return toPlainJson(kwargs, 'chatTemplateKwargs') as Record<string, JsonValue>;
}

/** Cuts off what the template puts after the last message (transformers' continue_final_message). */
function cutAfterFinalMessage(text: string, content: JsonValue | undefined): string {
  if (typeof content !== 'string') throw refuse('continueFinalMessage: expected the last message to have text to continue');
  const at = text.lastIndexOf(content.trim());
  if (at === -1) throw refuse('continueFinalMessage: the chat template changes the last message, so it cannot be continued');
  const untrimmed = content.trimStart();
  return text.startsWith(untrimmed, at) ? text.slice(0, at + untrimmed.length) : text.slice(0, at + content.trim().length);
}
