module LayerSkip.Tests.RandomModelTests

open System
open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip

Backend.ensure ()

/// A model of odd sizes, and a prompt that may fill its context.
type private Odd = { Config: LlamaConfig; Seed: int64; Prompt: int[] }

let private scalings headDim context =
    let yarn truncate = {
        Factor = 4.0
        Original = max 1 (context / 4)
        BetaFast = 32.0
        BetaSlow = 1.0
        AttentionFactor = 1.1386
        Truncate = truncate
    }

    Gen.oneof [
        Gen.constant RopeScaling.Default
        Gen.choose (2, 7) |> Gen.map (fun factor -> RopeScaling.Linear(float factor / 2.0))
        Gen.choose (1, 9) |> Gen.map (fun original -> RopeScaling.Dynamic(2.0, Some original))
        Gen.choose (1, 40)
        |> Gen.map (fun original -> RopeScaling.Llama3(8.0, 1.0, 4.0, original))
        Gen.elements [ true; false ] |> Gen.map (yarn >> RopeScaling.Yarn)
        Gen.choose (1, 30)
        |> Gen.arrayOfLength (headDim / 2)
        |> Gen.map (Array.map float >> RopeScaling.Divided)
    ]

let private odd =
    gen {
        let! layers = Gen.choose (2, 6)
        let! kvHeads = Gen.choose (1, 3)
        let! group = Gen.choose (1, 3)
        let! headDim = Gen.elements [ 2; 4; 6; 10; 14; 18; 22; 34 ]
        let! hidden = Gen.choose (1, 70)
        let! intermediate = Gen.choose (1, 70)
        let! vocabulary = Gen.choose (2, 90)
        // Short ones leave hardly a round, and every limit within it.
        let! context = Gen.frequency [ 1, Gen.choose (1, 6); 3, Gen.choose (7, 40) ]
        let! scaling = scalings headDim context
        let! windows =
            Gen.arrayOfLength layers (Gen.oneof [ Gen.constant None; Gen.choose (1, 6) |> Gen.map Some ])
        let! flags = Gen.arrayOfLength 5 (Gen.elements [ true; false ])
        let! seed = Gen.choose (0, 1_000_000)
        let! length = Gen.choose (1, max 1 (context - 1))
        let! prompt = Gen.arrayOfLength length (Gen.choose (0, vocabulary - 1))

        return {
            Config = {
                Tiny.config vocabulary layers (kvHeads * group) kvHeads flags[0] with
                    Hidden = hidden
                    Intermediate = intermediate
                    HeadDim = headDim
                    Context = context
                    RopeTheta = 100.0
                    RopeScaling = scaling
                    Windows = windows
                    QkvBias = flags[1]
                    OutputBias = flags[2]
                    MlpBias = flags[3]
                    QkNorm = flags[4]
            }
            Seed = int64 seed
            Prompt = prompt
        }
    }

let private dtypes = [ Dtype.F64; Dtype.F32; Dtype.F16; Dtype.BF16 ]

/// What a model writes up to the end of its context.
let private written weights strategy sampling seed (prompt: int[]) =
    Generation.complete weights None { Tiny.options strategy 40 with Sampling = sampling; Seed = seed } prompt
    |> Result.map (fun completion -> completion.TokenIds, completion.Finish)

let private strategies layers = [
    for exit in 1 .. layers - 1 do
        for draft in 1..5 -> Strategy.SelfSpeculative(Tiny.exit layers exit, draft)
]

/// Checks a model in one dtype; what goes wrong.
let private faults (model: Odd) dtype : string list =
    use weights = Weights.random model.Seed 0.8 dtype Device.Cpu model.Config
    let plain = written weights Strategy.Autoregressive Sampling.Greedy 1L model.Prompt
    let sampled = Sampling.Filtered(0.9, 7, 0.95, 0.0)
    let length = model.Config.Context - model.Prompt.Length

    [
        match plain with
        | Ok(tokens, _) when tokens.Length <> length ->
            $"{dtype}: plain text of {tokens.Length} tokens, not {length}"
        | Error faults when length > 0 -> $"{dtype}: {LayerSkipError.summary faults}"
        | _ -> ()

        for strategy in strategies model.Config.Layers do
            let own = written weights strategy Sampling.Greedy 1L model.Prompt

            if own <> plain then
                $"{dtype}, {strategy}: {own} and not {plain}"

        // Another draw at each draft length; the same again from the same seed.
        for strategy in List.truncate 5 (strategies model.Config.Layers) do
            let once = written weights strategy sampled 7L model.Prompt

            match once with
            | Ok(tokens, _) when tokens.Length <> length ->
                $"{dtype}, {strategy}, sampled: {tokens.Length} tokens"
            | _ -> ()

            if once <> written weights strategy sampled 7L model.Prompt then
                $"{dtype}, {strategy}, sampled: the same seed writes two texts"
    ]

/// More with LAYERSKIP_RANDOM_MODELS=N.
let private count =
    match Int32.TryParse(Environment.GetEnvironmentVariable "LAYERSKIP_RANDOM_MODELS") with
    | true, count when count > 0 -> count
    | _ -> 24

let private models (seed: uint64) = Gen.sampleWithSeed (Rnd seed) 50 count odd

[<Tests>]
let tests =
    testSequenced
    <| testCase
        "random tiny models of odd sizes: every exit and draft length writes the plain text, in each dtype"
        (fun () ->
            let bad = [
                for model in models 20261126UL do
                    match dtypes |> List.collect (faults model) with
                    | [] -> ()
                    | found -> $"%A{model}: {List.truncate 3 found}"
            ]

            Expect.isEmpty bad "every text is the plain one")
