namespace LayerSkip

open System
open TorchSharp

/// How a model writes texts to learn from.
type SelfTextOptions = {
    /// Ids of each text, its opening among them: 2 or more.
    Length: int
    /// 0: the likeliest token each time; 1: the model's own law.
    Temperature: float
    /// Texts that are written side by side.
    AtOnce: int
    Seed: int64
}

/// Texts that a model writes itself, many side by side, through libtorch on any device: what is learned from them is learned where
/// decoding goes. A text has no end: what the model writes after a stop token belongs to it.
[<RequireQualifiedAccess>]
module SelfText =
    /// Texts at once that leave room beside the weights: their keys and values, and a step's logits.
    let defaultAtOnce (device: Device) : int =
        match device with
        | Device.Cpu -> 64
        | Device.Cuda -> 2048

    /// What is wrong with options, for a model.
    let faults (config: LlamaConfig) (options: SelfTextOptions) : LayerSkipError list =
        let isTemperature = Double.IsFinite options.Temperature && options.Temperature >= 0.0

        Check.inRange
            (options.Length >= 2 && options.Length <= config.Context)
            "the length of a text"
            (string options.Length)
            $"2 to {config.Context}, the model's context"
        @ Check.inRange isTemperature "temperature" (string options.Temperature) "0 (the likeliest) or more"
        @ Check.atLeast 1 "at-once" options.AtOnce

    /// The next ids of rows of logits [count; vocabulary]: [count; 1]. Of l / T and Gumbel noise g the largest has softmax' law, so
    /// that no step waits for the device (Gumbel-max; Maddison et al. 2014, arXiv 1411.0030).
    let private next (generator: torch.Generator) (temperature: float) (logits: Tensor) : Tensor =
        if temperature = 0.0 then
            logits.argmax (1L, true)
        else
            let wide =
                if logits.dtype = torch.ScalarType.Float64 then
                    logits.clone ()
                else
                    logits.``to`` (torch.ScalarType.Float32, copy = true)

            let noise =
                if isNull generator then
                    // Uniform numbers may be 0, which stands for all that are less than the next.
                    torch.rand_like(wide).clamp_min_(Scalars.ofFloat (2.0 ** -25.0)).log_().neg_().log_()
                else
                    torch.empty_like(wide).exponential_(1.0, generator).log_()

            (Scalars.timesInPlace (1.0 / temperature) wide).sub_(noise).argmax(1L, true)

    /// A batch of texts [openings][length] that begin with the openings, which may differ in length; one longer than a text is cut.
    let batch (weights: Weights) (options: SelfTextOptions) (openings: int[][]) : int[][] =
        use _inference = Scope.inference ()
        let weights, config = Weights.withoutKernels weights, weights.Config
        let count, length = openings.Length, options.Length
        let device = Weights.torchDevice weights.Device
        let dtype = ScalarType.activations weights.Device weights.Dtype
        let rope = Rope.table config length dtype device
        // TorchSharp makes generators of its own for CPUs alone; CUDA has the process's.
        use generator =
            match weights.Device with
            | Device.Cpu -> new torch.Generator(uint64 options.Seed)
            | Device.Cuda ->
                torch.random.manual_seed options.Seed |> ignore
                null


        let slabs () = [|
            for _ in 1 .. config.Layers ->
                let size = [| int64 count; int64 config.KvHeads; int64 length; int64 config.HeadDim |]
                torch.empty (size, Nullable dtype, device)
        |]

        let keys, values = slabs (), slabs ()

        // What is given, and of which places; the model writes the rest.
        let given = openings |> Array.map (Array.truncate length)
        let size = [| int64 count; int64 length |]
        let filled (value: int -> int -> int) =
            (Tensors.ofIds size [|
                for row in 0 .. count - 1 do
                    for place in 0 .. length - 1 -> value row place
            |])
                .``to``
                device

        let ids = filled (fun row place -> Array.tryItem place given[row] |> Option.defaultValue 0)
        let written =
            (filled (fun row place -> if place < given[row].Length then 0 else 1)).to_type
                torch.ScalarType.Bool
        let least = given |> Array.map _.Length |> Array.min
        let most = given |> Array.map _.Length |> Array.max

        for position in 0 .. length - 2 do
            use _step = Scope.start ()

            let hidden =
                ids.narrow (1L, int64 position, 1L)
                |> Decoder.embed weights
                |> Decoder.runLayers
                    Decoder.plain
                    (KvStore.over keys values position)
                    rope
                    weights
                    0
                    config.Layers
                    position

            if position + 1 >= least then
                let chosen =
                    (SharedHead.logits weights hidden).view(int64 count, -1L)
                    |> next generator options.Temperature

                let place = ids.narrow (1L, int64 position + 1L, 1L)

                let kept =
                    if position + 1 >= most then
                        chosen
                    else
                        torch.where (written.narrow (1L, int64 position + 1L, 1L), chosen, place)

                place.copy_ kept |> ignore

        Tensors.toIds ids |> Array.chunkBySize length

    /// What a model begins texts with where nobody gives openings: its BOS; in ChatML also a turn of the user, as its chats begin.
    let ownOpenings (tokenizer: Tokenizer) : int[][] =
        let chat =
            if tokenizer.Added |> Seq.exists (fun entry -> entry.Value.Content = "<|im_start|>") then
                let system = "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n"
                [ "<|im_start|>user\n"; system + "<|im_start|>user\n" ]
            else
                []

        [|
            yield! Tokenizer.bos tokenizer |> Option.map Array.singleton |> Option.toArray
            for text in chat -> Tokenizer.encodeWith (Tokenizer.addsBos tokenizer) true tokenizer text
        |]
        |> Array.filter (fun ids -> ids.Length > 0)

    /// Texts until they hold `tokens` ids, batch after batch as they are asked for, from the openings in turn.
    let texts
        (weights: Weights)
        (options: SelfTextOptions)
        (openings: int[][])
        (tokens: int64)
        : seq<int[][]> =
        if openings.Length = 0 || Array.exists Array.isEmpty openings then
            invalidArg (nameof openings) "a text begins with an id or more"

        let count = int ((tokens + int64 options.Length - 1L) / int64 options.Length)

        seq {
            for first in 0 .. options.AtOnce .. count - 1 do
                let size = min options.AtOnce (count - first)
                let own = Array.init size (fun row -> openings[(first + row) % openings.Length])
                batch weights { options with Seed = options.Seed + int64 first } own
        }
