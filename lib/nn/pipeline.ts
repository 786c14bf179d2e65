/** Layers over the stages of a pipeline (vllm models/utils.py make_layers, distributed/utils.py get_pp_indices). */
import { KvasirError } from '../utils/errors';
import { makeLayers, Module } from './module';

/** Stage `rank` of `size` stages. */
export interface PipelineStage {
  readonly rank: number;
  readonly size: number;
}

/** Stands where a layer of another stage would be: layers keep their numbers, and so their names, whatever the number of stages. */
export class PPMissingLayer extends Module {
  forward<T>(input: T): T {
    return input;
  }
}

/**
 * The layers [start, end) of a stage. What does not divide goes to the stages before the last one, which has the norm and the LM head
 * besides, from the back.
 * @throws KvasirError ERR_KVASIR_LAYER when there is no such stage, or fewer layers than stages
 */
export function getPpIndices(numLayers: number, rank: number, size: number): [start: number, end: number] {
  if (!Number.isInteger(rank) || !Number.isInteger(size) || rank < 0 || rank >= size || size > numLayers)
    throw new KvasirError('ERR_KVASIR_LAYER', `expected a stage from 0 to size - 1 of at most ${numLayers} stages, received stage ${rank} of ${size}`);
  const remainder = numLayers % size;
  const layersOf = (stage: number): number => Math.floor(numLayers / size) + (stage < size - 1 && stage >= size - 1 - remainder ? 1 : 0);
  let start = 0;
  for (let stage = 0; stage < rank; stage++) start += layersOf(stage);
  return [start, start + layersOf(rank)];
}

/** As {@link makeLayers}, with {@link PPMissingLayer} for the layers of other stages; forward runs `layers.slice(start, end)`. */
export function makeStageLayers<T extends Module>(
  numLayers: number,
  make: (prefix: string, index: number) => T,
  prefix: string,
  { rank, size }: PipelineStage,
): { start: number; end: number; layers: (T | PPMissingLayer)[] } {
  const [start, end] = getPpIndices(numLayers, rank, size);
  const isHere = (index: number): boolean => index >= start && index < end;
  const layers = makeLayers<T | PPMissingLayer>(numLayers, (name, index) => (isHere(index) ? make(name, index) : new PPMissingLayer(name)), prefix);
  return { start, end, layers };
}
