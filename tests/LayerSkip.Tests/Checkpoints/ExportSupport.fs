module LayerSkip.Tests.ExportSupport

open System.IO
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.TensorSupport

/// A checkpoint in memory: no file, no tokenizer.
let checkpoint (weights: Weights) : Checkpoint = Checkpoint.ofWeights "tiny" weights None

let load (dtype: Dtype option) (path: string) : Checkpoint =
    Checkpoint.load path dtype Device.Cpu |> Check.getOrRaise

let formats = [ ExportFormat.HuggingFace, "folder"; ExportFormat.Gguf, "model.gguf" ]

/// Exports, and loads what was written.
let exported
    (format: ExportFormat)
    (layers: int)
    (source: Checkpoint)
    (body: ExportReport -> Checkpoint -> 'T)
    : 'T =
    withFolder (fun folder ->
        let path = Path.Combine(folder, List.find (fst >> (=) format) formats |> snd)
        let report = Export.write format layers path source |> Check.getOrRaise
        Expect.equal
            (Directory.GetFileSystemEntries folder)
            [| path |]
            "one thing was written, and nothing is left over"
        use made = load (Some source.Weights.Dtype) path
        body report made)

/// The same weights bit for bit, under the same names.
let expectSameWeights (expected: Weights) (found: Weights) : unit =
    let found = Map(Weights.named found)
    let expected = Weights.named expected
    Expect.equal found.Count expected.Length "as many tensors"

    for name, tensor in expected do
        Expect.equal found[name].shape tensor.shape name
        Expect.equal (bytesOf found[name]) (bytesOf tensor) name

/// Greedy ids after a prompt.
let greedy (strategy: Strategy) (count: int) (prompt: int[]) (weights: Weights) : int[] =
    (Generation.complete weights None (Tiny.options strategy count) prompt |> Check.getOrRaise).TokenIds

/// Apart from the name of the stored dtype.
let plain (config: LlamaConfig) = { config with StoredDtype = None }
