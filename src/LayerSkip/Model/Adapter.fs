namespace LayerSkip

open System
open System.Security.Cryptography
open LayerSkip.Kernels
open TorchSharp

/// What stands between an exit and the head that all layers share, where the model itself must not change.
[<RequireQualifiedAccess>]
type AdapterForm =
    /// A norm of the exit's own in place of the final one.
    | Norm
    /// A residual map of low rank before it (the tuned lens, arXiv 2303.08112, section 3.1, in few dimensions).
    | LowRank of rank: int
    /// One decoder block before it, with keys and values of its own (Balcony, arXiv 2503.05005; Kangaroo, arXiv 2404.18911).
    | Block

[<RequireQualifiedAccess>]
module AdapterForm =
    /// As options and files spell it, without the rank.
    let name (form: AdapterForm) : string =
        match form with
        | AdapterForm.Norm -> "norm"
        | AdapterForm.LowRank _ -> "lowrank"
        | AdapterForm.Block -> "block"

    /// The form of a name; `rank` is that of a map, 1 to `hidden`.
    let tryCreate (hidden: int) (name: string) (rank: int) : Result<AdapterForm, LayerSkipError list> =
        match name with
        | "norm" -> Ok AdapterForm.Norm
        | "block" -> Ok AdapterForm.Block
        | "lowrank" ->
            let allowed = $"{LayerSkipError.oneTo hidden}, numbers of a hidden state"

            Check.all
                (Check.inRange (rank >= 1 && rank <= hidden) "rank" (string rank) allowed)
                (AdapterForm.LowRank rank)
        | _ -> Check.outOfRange "adapter" name "norm, lowrank or block"

/// x -> n + Up Down n with n = x / rms(x) * Norm.
[<NoEquality; NoComparison>]
type LowRankMap = {
    /// [hidden]
    Norm: Tensor
    /// [rank; hidden]
    Down: Tensor
    /// [hidden; rank]
    Up: Tensor
}

/// A small model behind an exit of a base: it turns the exit's hidden states into those that the base's head reads. The base does not
/// change.
[<NoEquality; NoComparison>]
type Adapter = {
    Form: AdapterForm
    Exit: ExitLayer
    /// A norm, and of a block its layer, between the embedding and the head of the base: those two are not the adapter's.
    Weights: Weights
    Map: LowRankMap option
    /// `Adapter.fingerprint` of the base that it was made for.
    Base: string
} with

    interface IDisposable with
        /// The base stays.
        member this.Dispose() =
            this.Weights.Kernels |> Option.iter (fun kernels -> (kernels :> IDisposable).Dispose())
            (this.Weights.Rope :> IDisposable).Dispose()
            let parts = this.Weights.Parts

            Scope.release [
                for weight in parts.Norm :: List.collect LayerParts.toList (List.ofArray parts.Layers) do
                    yield! Weight.tensors weight
                for map in Option.toList this.Map do
                    yield! [ map.Norm; map.Down; map.Up ]
            ]

/// Making adapters, and what they compute.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Adapter =
    let private mapNorm, mapDown, mapUp = "lowrank.norm.weight", "lowrank.down.weight", "lowrank.up.weight"

    /// Of the adapter as a model: the base's with one layer, which sees as far as the exit's, or with none.
    let private configOf (config: LlamaConfig) (form: AdapterForm) (exit: ExitLayer) : LlamaConfig =
        match form with
        | AdapterForm.Block -> { config with Layers = 1; Windows = [| config.Windows[exit.Layers - 1] |] }
        | AdapterForm.Norm
        | AdapterForm.LowRank _ -> { config with Layers = 0; Windows = [||] }

    let private own (parts: DecoderParts<'T>) : 'T list =
        parts.Norm :: List.collect LayerParts.toList (List.ofArray parts.Layers)

    let private mapParts (hidden: int) (form: AdapterForm) : CheckpointPart list =
        match form with
        | AdapterForm.LowRank rank -> [
            mapNorm, [ int64 hidden ]
            mapDown, [ int64 rank; int64 hidden ]
            mapUp, [ int64 hidden; int64 rank ]
          ]
        | AdapterForm.Norm
        | AdapterForm.Block -> []

    /// Names and shapes of what an adapter's file holds, for a base of this configuration: of its layer Hugging Face's, as of the first.
    let expected (config: LlamaConfig) (form: AdapterForm) (exit: ExitLayer) : CheckpointPart list =
        List.concat (own (CheckpointPart.ofConfig (configOf config form exit)))
        @ mapParts config.Hidden form

    /// What tells one base from another, whatever its matrices are held in: a hash of its norms, which every file holds as vectors.
    let fingerprint (weights: Weights) : string =
        use _inference = Scope.inference ()
        use hash = IncrementalHash.CreateHash HashAlgorithmName.SHA256

        for norm in weights.Norm :: [ for layer in weights.Layers -> layer.AttentionNorm ] do
            // In the fewest bits that any dtype has, so that each of them says the same.
            let kept = (Weight.tensor norm).``to``(torch.ScalarType.BFloat16)
            hash.AppendData(kept.cpu().contiguous().bytes.ToArray())

        (Convert.ToHexStringLower(hash.GetHashAndReset()))[..31]

    /// An adapter with matrices of `dtype`, each of whose tensors `write` fills by its name. For libtorch alone.
    let internal build
        (dtype: Dtype)
        (weights: Weights)
        (form: AdapterForm)
        (exit: ExitLayer)
        (mark: string)
        (write: string -> Tensor -> unit)
        : Adapter =
        use _noGrad = Scope.noGrad ()
        let config = configOf weights.Config form exit
        let parts = CheckpointPart.ofConfig config
        let fill (parts: CheckpointPart list) = Weights.fill dtype weights.Device write parts
        // Small, and in the dtype of activations wherever it is computed.
        let wide =
            ScalarType.activations weights.Device dtype
            |> ScalarType.tryDtype
            |> Option.defaultValue dtype

        let make (parts: CheckpointPart list) =
            let tensor = fill parts
            Scope.own [ tensor ]
            Weight.ofTensor tensor

        let map =
            match mapParts config.Hidden form with
            | [ norm; down; up ] ->
                let tensors =
                    List.map (fun part -> Weights.fill wide weights.Device write [ part ]) [ norm; down; up ]

                Scope.own tensors
                Some { Norm = tensors[0]; Down = tensors[1]; Up = tensors[2] }
            | _ -> None

        {
            Form = form
            Exit = exit
            Weights = {
                weights with
                    Config = config
                    Dtype = dtype
                    Rope = new RopeTables()
                    Kernels = None
                    RoundsInputs = false
                    Parts = {
                        Embedding = weights.Embedding
                        Head = weights.Parts.Head
                        Norm = make parts.Norm
                        Layers = Array.map (LayerParts.map make) parts.Layers
                    }
            }
            Map = map
            Base = mark
        }

    /// What learns, in the order of `expected`: a layer's q, k and v are one, as are gate and up.
    let tensors (adapter: Adapter) : Tensor[] = [|
        for weight in own adapter.Weights.Parts -> weight.Tensor
        for map in Option.toList adapter.Map do
            yield! [ map.Norm; map.Down; map.Up ]
    |]

    /// Tensors that go with an adapter's, each under the name of its own.
    let internal namedLike (adapter: Adapter) (tensors: Tensor[]) : (string * Tensor) list =
        let config = adapter.Weights.Config

        List.zip
            (own (CheckpointPart.ofConfig config)
             @ List.map List.singleton (mapParts config.Hidden adapter.Form))
            (List.ofArray tensors)
        |> List.collect (fun (parts, whole) -> Weights.rowsOf parts whole)

    /// Every tensor under its name, as views.
    let named (adapter: Adapter) : (string * Tensor) list = namedLike adapter (tensors adapter)

    /// How many numbers it learns.
    let parameters (adapter: Adapter) : int64 = tensors adapter |> Array.sumBy _.numel()

    /// An adapter to train, in float32 (float64 beside a base of float64): its norm is the base's last, a map adds nothing yet, and a
    /// block is the base's layer `source` (from 1).
    let initial
        (seed: int64)
        (source: int)
        (form: AdapterForm)
        (exit: ExitLayer)
        (weights: Weights)
        : Adapter =
        let dtype = if weights.Dtype = Dtype.F64 then Dtype.F64 else Dtype.F32
        let prefix = "model.layers.0."
        let held = lazy (Weights.parts weights |> List.map (fun part -> part.Name, part) |> Map.ofList)

        let copy name (tensor: Tensor) =
            let part = held.Value[name]
            tensor.copy_ (part.Rows 0L part.Shape[0]) |> ignore

        let write (name: string) (tensor: Tensor) =
            use _scope = Scope.start ()

            if name = mapUp then
                tensor.zero_ () |> ignore
            elif name = mapNorm then
                tensor.fill_ (Scalars.ofFloat 1.0) |> ignore
            elif name = mapDown then
                use generator = new torch.Generator(uint64 seed)
                let noise = torch.randn (tensor.shape, generator = generator)
                tensor.copy_ (Scalars.timesInPlace (1.0 / sqrt (float tensor.shape[1])) noise) |> ignore
            elif name.StartsWith(prefix, StringComparison.Ordinal) then
                copy $"model.layers.{source - 1}.{name[prefix.Length ..]}" tensor
            else
                copy name tensor

        build dtype weights form exit (fingerprint weights) write

    /// n + Up Down n, n = x / rms(x) * norm: [..; hidden] -> the same.
    let internal mapped (eps: float) (map: LowRankMap) (x: Tensor) : Tensor =
        Scope.one (fun () ->
            let normed = Ops.rmsNorm map.Norm eps x
            Ops.linear map.Down None normed |> Ops.linear map.Up None |> Scalars.plus normed)

    /// `mapped` of `rows` rows of states [1; room; hidden], from row `start` on, in place; nothing where there is no map.
    let internal mapInPlace (adapter: Adapter) (start: int64) (rows: int64) (states: Tensor) : unit =
        match adapter.Map with
        | None -> ()
        | Some map when adapter.Weights.Kernels.IsSome && map.Down.dtype = torch.ScalarType.Float32 ->
            let hidden = states.shape[2]
            let first = nativeint (start * hidden * 4L)

            LowRank.Run(
                Tensors.address states + first,
                int rows,
                int hidden,
                int map.Down.shape[0],
                Tensors.address map.Norm,
                Tensors.address map.Down,
                Tensors.address map.Up,
                float32 adapter.Weights.Config.NormEps
            )

            GC.KeepAlive states
            GC.KeepAlive map
        | Some map ->
            use _inference = Scope.inference ()
            let own = states.narrow (1L, start, rows)
            own.copy_ (mapped adapter.Weights.Config.NormEps map own) |> ignore

    /// What the base's head reads of an exit's hidden states [batch; rows; hidden], once the adapter's norm is taken: the same shape.
    /// As `Ops` has it, differentiably; `rope` has the positions.
    let run (rope: Rope) (adapter: Adapter) (hidden: Tensor) : Tensor =
        let weights = adapter.Weights

        let x =
            match adapter.Map with
            | Some map -> mapped weights.Config.NormEps map hidden
            | None -> hidden

        if weights.Config.Layers = 0 then
            x
        else
            Decoder.runLayers Decoder.plain KvStore.none rope weights 0 weights.Config.Layers 0 x

    /// The same adapter for the CPU kernels, where they serve its base.
    let withKernels (adapter: Adapter) : Adapter = {
        adapter with
            Weights = Weights.withKernels adapter.Weights
    }
