import { quantizationFromCheckpoint } from '../../lib/quantization/registry';
import { UnquantizedLinearMethod } from '../../lib/quantization/unquantized';
import { expectCode } from '../fixtures/expect-error';

describe('quantizationFromCheckpoint', () => {
  it.each([null, undefined])('%p: every layer in the model dtype', (raw) => {
    const config = quantizationFromCheckpoint(raw);
    for (const kind of ['linear', 'lm_head', 'embedding'] as const) expect(config.getQuantMethod({ kind, className: 'Linear', parts: ['x'] }, 'x')).toBeInstanceOf(UnquantizedLinearMethod);
  });

  it.each(['zipnn', 'constructor', '__proto__', 'toString'])('refuses the method %p by name', async (name) => {
    const error = await expectCode('ERR_KVASIR_UNSUPPORTED', () => quantizationFromCheckpoint({ quant_method: name, bits: 4 }));
    expect(error.message).toContain(`"${name}"`);
  });

  it('refuses a configuration without a method', async () => {
    await expectCode('ERR_KVASIR_UNSUPPORTED', () => quantizationFromCheckpoint({}));
  });
});
