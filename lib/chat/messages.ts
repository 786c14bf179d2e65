import { KvasirError, messageOf } from '../utils/errors';
import { toPlainJson, type JsonValue } from './plain-json';

export interface TextPart {
  type: 'text';
  text: string;
}

/** A message in OpenAI's format; fields a template may ask for besides (name, tool_calls, tool_call_id, ...) go through. */
export interface ChatMessage {
  role: string;
  /** Text; or parts, whose texts are joined by line feeds; or nothing beside tool calls. */
  content?: string | readonly TextPart[] | null;
  [extra: string]: unknown;
}

type JsonObject = { [key: string]: JsonValue };

function refuse(path: string, expected: string, received: unknown): KvasirError {
  return new KvasirError('ERR_KVASIR_CHAT_TEMPLATE', `${path}: expected ${expected}, received ${JSON.stringify(received)?.slice(0, 100) ?? 'nothing'}`);
}

const isObject = (value: JsonValue | undefined): value is JsonObject => typeof value === 'object' && value !== null && !Array.isArray(value);

function joinParts(parts: JsonValue[], path: string): string {
  const texts = parts.map((part, i) => {
    if (!isObject(part)) throw refuse(`${path}[${i}]`, 'a part {type, text}', part);
    if (part.type !== 'text') {
      throw new KvasirError('ERR_KVASIR_UNSUPPORTED', `${path}[${i}]: expected a part of type "text", received ${JSON.stringify(part.type)}; images and sound are not supported`);
    }
    if (typeof part.text !== 'string') throw refuse(`${path}[${i}].text`, 'a string', part.text);
    return part.text;
  });
  return texts.join('\n');
}

/** Arguments of a call travel as JSON text in OpenAI's format; templates want the object (as vLLM gives it to them). */
function parseArguments(call: JsonValue, path: string): JsonValue {
  if (!isObject(call) || !isObject(call.function) || typeof call.function.arguments !== 'string') return call;
  const text = call.function.arguments;
  let value: unknown;
  try {
    value = text.trim() === '' ? {} : JSON.parse(text);
  } catch (error) {
    throw refuse(`${path}.function.arguments`, `JSON text (${messageOf(error)})`, text);
  }
  return { ...call, function: { ...call.function, arguments: toPlainJson(value, `${path}.function.arguments`) } };
}

function normalizeMessage(message: JsonValue, path: string): JsonObject {
  if (!isObject(message)) throw refuse(path, 'a message {role, content}', message);
  if (typeof message.role !== 'string' || message.role === '') throw refuse(`${path}.role`, 'a name such as "user"', message.role);
  const normalized: JsonObject = { ...message };
  const content = message.content;
  if (Array.isArray(content)) normalized.content = joinParts(content, `${path}.content`);
  else if (content !== undefined && content !== null && typeof content !== 'string') throw refuse(`${path}.content`, 'a string or a list of text parts', content);
  if (Array.isArray(message.tool_calls)) normalized.tool_calls = message.tool_calls.map((call, i) => parseArguments(call, `${path}.tool_calls[${i}]`));
  return normalized;
}

/**
 * Messages the way templates want them: plain data, content as text, tool call arguments as objects.
 * @throws KvasirError ERR_KVASIR_CHAT_TEMPLATE for messages of another form, ERR_KVASIR_UNSUPPORTED for parts that are no text.
 */
export function normalizeMessages(messages: readonly ChatMessage[]): JsonObject[] {
  if (!Array.isArray(messages) || messages.length === 0) throw refuse('messages', 'a list of at least one message', messages);
  return (toPlainJson(messages, 'messages') as JsonValue[]).map((message, i) => normalizeMessage(message, `messages[${i}]`));
}
