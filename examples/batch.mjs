// Many prompts at once: they share steps (continuous batching), and each may have its own parameters.
// node examples/batch.mjs

import { fileURLToPath } from 'node:url';
import { LLM } from 'kvasir';

const llm = await LLM.create({ model: fileURLToPath(new URL('models/kvasir-tales-5m', import.meta.url)) });
try {
  const prompts = ['The little dog', 'Anna had a red balloon', 'In the forest lived', 'One rainy day'];
  const outputs = await llm.generate(prompts, { temperature: 0, maxTokens: 40 });
  for (const { prompt, outputs: [completion] } of outputs) {
    console.log(`${prompt}${completion.text} [${completion.finishReason}]\n`);
  }

  // A conversation: the model's own chat template is applied.
  const [reply] = await llm.chat([{ role: 'user', content: 'Tell me a story about a cat and a ball.' }], { temperature: 0, maxTokens: 60 });
  console.log(reply.outputs[0].text);
} finally {
  await llm.close();
}
