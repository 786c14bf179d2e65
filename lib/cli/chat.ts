import * as readline from 'node:readline';
import type { ChatMessage, LLM } from '../index';
import type { SamplingParams } from '../sampling/params';
import { engineArgs } from './engine-options';
import { interruptible } from './interrupt';
import { write, type CliIo } from './io';
import { openModel } from './open-model';
import { samplingParams } from './sampling-options';

const PROMPT = '> ';

/**
 * `kvasir chat`: reads messages from stdin, streams replies to stdout. On a terminal Ctrl-C stops a reply, or ends the chat when
 * none runs; elsewhere it ends the chat.
 */
export async function chat(model: string, given: Readonly<Record<string, unknown>>, io: CliIo): Promise<void> {
  const llm = await interruptible((signal) => openModel(engineArgs(model, given, ['seed']), given, signal, io));
  try {
    await converse(llm, samplingParams(given, llm.getDefaultSamplingParams()), systemMessages(given.system), io);
  } finally {
    await llm.close();
  }
}

function systemMessages(system: unknown): ChatMessage[] {
  return typeof system === 'string' ? [{ role: 'system', content: system }] : [];
}

async function converse(llm: LLM, params: SamplingParams, opening: readonly ChatMessage[], io: CliIo): Promise<void> {
  const terminal = io.stdin.isTTY === true && io.stdout.isTTY === true;
  const lines = readline.createInterface({ input: io.stdin, output: terminal ? io.stdout : undefined, terminal, prompt: PROMPT });
  const session: Session = { reply: null, ended: false };
  const interrupt = (): void => {
    session.ended = session.reply === null || !terminal;
    session.reply?.abort();
    if (session.ended) lines.close();
  };
  // On a terminal readline takes Ctrl-C itself; elsewhere it comes as a signal.
  lines.on('SIGINT', interrupt);
  process.on('SIGINT', interrupt);
  let messages = [...opening];
  try {
    if (terminal) lines.prompt();
    for await (const line of lines) {
      const text = line.trim();
      if (text === '/exit' || session.ended) break;
      if (text === '/reset') messages = [...opening];
      else if (text !== '') messages = await answer(llm, params, [...messages, { role: 'user', content: text }], session, io);
      if (terminal) lines.prompt();
    }
  } finally {
    process.off('SIGINT', interrupt);
    lines.close();
  }
}

interface Session {
  /** Aborts the reply that is being written, if one is. */
  reply: AbortController | null;
  /** Ctrl-C ended the chat: lines that were read ahead are not answered. */
  ended: boolean;
}

/** Streams the reply to the conversation so far; resolves with the conversation that includes it, even when it was cut short. */
async function answer(llm: LLM, params: SamplingParams, messages: ChatMessage[], session: Session, io: CliIo): Promise<ChatMessage[]> {
  const controller = new AbortController();
  session.reply = controller;
  let reply = '';
  try {
    for await (const output of llm.streamChat(messages, { ...params, outputKind: 'delta' }, { signal: controller.signal })) {
      const text = output.outputs[0]?.text ?? '';
      reply += text;
      await write(io.stdout, text);
    }
  } catch (error) {
    if (!controller.signal.aborted) throw error;
  } finally {
    session.reply = null;
  }
  await write(io.stdout, '\n');
  return [...messages, { role: 'assistant', content: reply }];
}
