import type { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';

/** What one stage of a pipeline hands to the next, by name: "hidden_states" and "residual" in most models (vllm IntermediateTensors). */
export class IntermediateTensors {
  constructor(readonly tensors: Readonly<Record<string, Tensor>>) {}

  /** @throws KvasirError ERR_KVASIR_LAYER when the stage before did not hand it over */
  get(name: string): Tensor {
    const tensor = Object.hasOwn(this.tensors, name) ? this.tensors[name] : undefined;
    if (!tensor) throw new KvasirError('ERR_KVASIR_LAYER', `the intermediate tensors hold ${Object.keys(this.tensors).join(', ') || 'nothing'}, expected ${name}`);
    return tensor;
  }
}
