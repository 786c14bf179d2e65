#!/usr/bin/env node
'use strict';
// Perplexity of a model on texts: each text alone, from its first token on (BOS, where the tokenizer adds one), cut to --max-len tokens;
// every token but the first is scored. Prints one JSON line.
//   node scripts/perplexity.js --model DIR --data FILE.jsonl [--limit 100] [--max-len 512] [--dtype float32]

const fs = require('node:fs');
const { parseArgs } = require('node:util');
const { UserError, runMain } = require('./common.js');

/**
 * The sum of -ln p over all scored tokens, and their number. The last token of a text is the one token that its request generates,
 * held to it by allowedTokenIds; log probabilities are those of the raw logits, so the scores are as of a prompt token, and a text may
 * be as long as the model's context.
 */
async function score(llm, sequences) {
  const scored = sequences.filter((ids) => ids.length >= 2);
  const outputs = await llm.generate(
    scored.map((ids) => ({ promptTokenIds: ids.slice(0, -1) })),
    scored.map((ids) => ({ temperature: 0, maxTokens: 1, promptLogprobs: 0, logprobs: 0, detokenize: false, allowedTokenIds: [ids[ids.length - 1]] })),
  );
  let nll = 0;
  let tokens = 0;
  outputs.forEach(({ promptLogprobs, outputs: [completion] }, i) => {
    const entries = [...promptLogprobs.slice(1), ...completion.logprobs].map((position) => position[0]);
    entries.forEach(({ tokenId, logprob }, k) => {
      if (tokenId !== scored[i][k + 1]) throw new Error(`text ${i}, token ${k + 1}: scored ${tokenId}, expected ${scored[i][k + 1]}`);
      nll -= logprob;
    });
    if (entries.length !== scored[i].length - 1) throw new Error(`text ${i}: ${entries.length} scores for ${scored[i].length} tokens`);
    tokens += entries.length;
  });
  return { nll, tokens };
}

/** Perplexity over texts with the engine's own tokenizer. */
async function perplexity(llm, texts, maxLen = llm.config.model.maxModelLen) {
  const sequences = texts.map((text) => llm.tokenizer.encode(text).slice(0, maxLen));
  const { nll, tokens } = await score(llm, sequences);
  return { texts: texts.length, tokens, nllPerToken: nll / tokens, perplexity: Math.exp(nll / tokens) };
}

/** The texts of a .jsonl file: the field "text" of each line. */
function readTexts(file, limit) {
  const lines = fs.readFileSync(file, 'utf8').split('\n').filter(Boolean).slice(0, limit);
  return lines.map((line, i) => {
    const { text } = JSON.parse(line);
    if (typeof text !== 'string') throw new UserError(`${file}, line ${i + 1}: expected an object with a string "text".`);
    return text;
  });
}

async function main() {
  const { values } = parseArgs({
    options: {
      model: { type: 'string' }, data: { type: 'string' }, limit: { type: 'string', default: '100' },
      'max-len': { type: 'string' }, dtype: { type: 'string', default: 'auto' },
    },
  });
  if (values.model === undefined || values.data === undefined) throw new UserError('--model DIR and --data FILE.jsonl are required.');
  const { LLM } = require('../dist/index.js');
  const llm = await LLM.create({ model: values.model, dtype: values.dtype });
  try {
    const start = performance.now();
    const maxLen = values['max-len'] === undefined ? undefined : Number(values['max-len']);
    const result = await perplexity(llm, readTexts(values.data, Number(values.limit)), maxLen);
    console.log(JSON.stringify({ model: values.model, dtype: llm.config.model.dtype, ...result, seconds: (performance.now() - start) / 1e3 }));
  } finally {
    await llm.close();
  }
}

module.exports = { perplexity, readTexts };

if (require.main === module) runMain(main);
