'use strict';
// An engine in a thread of its own, two streams at once, one of which is stopped after 20 tokens.
// node examples/stream-abort.js

const path = require('node:path');
const { AsyncLLM } = require('kvasir');

async function tell(llm, prompt, signal, maxTokens = 100) {
  let text = prompt;
  let tokens = 0;
  for await (const output of llm.generate(prompt, { temperature: 0, maxTokens, ignoreEos: true, outputKind: 'delta' }, { signal })) {
    text += output.outputs[0].text;
    tokens += output.outputs[0].tokenIds.length;
    if (tokens >= 20 && prompt.startsWith('The')) break; // leaving the loop aborts the request
  }
  return `${text} [${tokens} tokens]`;
}

async function main() {
  const llm = await AsyncLLM.create({ model: path.join(__dirname, 'models', 'kvasir-tales-5m') });
  try {
    const controller = new AbortController();
    const stories = await Promise.all([
      tell(llm, 'The old man', controller.signal),
      tell(llm, 'A small bird', controller.signal),
    ]);
    console.log(stories.join('\n\n'));

    // An AbortSignal does the same from outside the loop.
    const timer = setTimeout(() => controller.abort(), 20);
    await tell(llm, 'Once upon a time', controller.signal, 1000).catch((error) => console.log(`\nstopped: ${error.name}`));
    clearTimeout(timer);
  } finally {
    await llm.close();
  }
}

main().catch((error) => {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
});
