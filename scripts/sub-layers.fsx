// Whether attention and MLP of a layer are better left out apart: how often a model says its own next token with one attention, one MLP or
// one whole layer left out, and with ever more attentions, the least missed one after another. What a residual branch adds is made zero in
// place of leaving it out, which is the same numbers and no gain of time; so the script says what share of a pass it would save.
//
//     dotnet fsi scripts/sub-layers.fsx
//     dotnet fsi scripts/sub-layers.fsx --model DIR --dtype f16 --attentions N --threads N
#load "options.fsx"
#load "kinds.fsx"

open Options

let given =
    Given [
        "--model DIR", "../shared/data/smollm2-135m-instruct/model.gguf"
        "--dtype T", "f16"
        "--text DIR", "../shared/data"
        "--new-tokens N", "48"
        "--prompt-tokens N", "32"
        "--attentions N", "10"
        "--threads N", "one for each core"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

open System
open LayerSkip

Backend.load () |> orStop |> ignore
given.TryWhole("--threads", 1) |> Option.iter CpuKernels.setThreads

let dtype =
    match Dtype.all |> List.tryFind (fun dtype -> Dtype.name dtype = given.Text "--dtype") with
    | Some dtype -> dtype
    | None -> stop 2 $"""--dtype is {given.Text "--dtype"}, it must be f64, f32, f16 or bf16"""

let model = Checkpoint.load (given.Path "--model") (Some dtype) Device.Cpu |> orStop
let weights, layers = model.Weights, model.Config.Layers

let tokenizer =
    match model.Tokenizer with
    | Some tokenizer -> tokenizer
    | None -> stop 2 "the model has no tokenizer"

/// Prompts, each with what the model writes after it.
let texts = [
    for _, prompts in Kinds.prompts (given.Path "--text") tokenizer 1 (given.Whole("--prompt-tokens", 1)) 0.0 do
        for prompt in prompts do
            let options = GenerationOptions.greedy Strategy.Autoregressive (given.Whole("--new-tokens", 2))
            prompt, (Generation.complete weights None options prompt |> orStop).TokenIds
]

let nothing (weight: Weight) : Weight = Weight.map TorchSharp.torch.zeros_like weight

/// The share of the model's own tokens that it says without what these layers' attentions and MLPs add.
let agreement (attentions: int list) (mlps: int list) : float =
    Scope.free (fun () ->
        let changed =
            weights.Layers
            |> Array.mapi (fun index layer -> {
                layer with
                    Output =
                        if List.contains (index + 1) attentions then
                            nothing layer.Output
                        else
                            layer.Output
                    Down =
                        if List.contains (index + 1) mlps then
                            nothing layer.Down
                        else
                            layer.Down
            })

        let altered =
            Weights.withKernels {
                weights with
                    Parts = { weights.Parts with Layers = changed }
                    Kernels = None
            }

        try
            let right (prompt: int[], own: int[]) =
                let ids = Array.append prompt own[.. own.Length - 2]
                let cache = Cache.create altered layers ids.Length
                use _storage = cache.Slab :> IDisposable
                let struct (hidden, _) = Model.forward altered (own.Length - 1) ids cache
                let said = Model.logits hidden |> Logits.argmax
                Seq.zip said own[1..] |> Seq.filter (fun (said, own) -> said = own) |> Seq.length

            float (List.sumBy right texts)
            / float (texts |> List.sumBy (fun (_, own) -> own.Length - 1))
        finally
            altered.Kernels |> Option.iter (fun kernels -> (kernels :> IDisposable).Dispose()))

let size (weights: Weight list) = weights |> List.sumBy Weight.numel |> float
let first = weights.Layers[0]
let attention, mlp = size [ first.Qkv; first.Output ], size [ first.GateUp; first.Down ]
let share = attention / (attention + mlp)

printfn
    "%s in %s; attention is %.0f %% of a layer's weights"
    (given.Text "--model")
    (Weights.description weights)
    (100.0 * share)
printfn "| left out | attention | MLP | whole layer |"
printfn "|---|---|---|---|"
let percent part = $"%.0f{100.0 * part} %%"

for layer in 2..layers do
    printfn
        "| %d | %s | %s | %s |"
        layer
        (percent (agreement [ layer ] []))
        (percent (agreement [] [ layer ]))
        (percent (agreement [ layer ] [ layer ]))

printfn "\n| attentions left out | agreement | as many layers' worth |"
printfn "|---|---|---|"
let mutable chosen = []

for count in 1 .. min (given.Whole("--attentions", 1)) (layers - 1) do
    let next =
        [ 2..layers ]
        |> List.except chosen
        |> List.maxBy (fun layer -> agreement (layer :: chosen) [])
    chosen <- next :: chosen
    printfn
        "| %s | %s | %.1f |"
        (chosen |> List.sort |> List.map string |> String.concat ",")
        (percent (agreement chosen []))
        (share * float count)
#endif
