/// Prompts on the processor's matrix unit.
module LayerSkip.Tests.PrefillTests

open System
open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip
open LayerSkip.Kernels
open LayerSkip.Tests.Support
open LayerSkip.Tests.ServingSupport

Backend.ensure ()

/// Wide enough for the unit, whose sums go by sixteens.
let private config = {
    Tiny.config 24 4 4 2 true with
        Hidden = 64
        Intermediate = 96
        HeadDim = 16
        Context = 700
        Windows = [| None; Some 30; None; None |]
}

let private weights (seed: int) dtype = Weights.random (int64 seed) 0.5 dtype Device.Cpu config

let private promptOf (seed: int) length =
    let random = Random seed
    Array.init length (fun _ -> random.Next config.Vocabulary)

/// Logits of the last `rows` rows after texts that are read one after the other.
let private read (weights: Weights) prefill rows (texts: int[] list) =
    Scope.free (fun () ->
        let weights = { weights with Prefill = prefill }
        let cache = Cache.create weights 2 (List.sumBy Array.length texts)
        use _storage = cache.Slab :> IDisposable

        let step (cache: Cache, _) (ids: int[]) =
            let struct (hidden, cache) = Model.forward weights (min rows ids.Length) ids cache
            cache, Model.logits hidden |> Logits.toFloats

        List.fold step (cache, [||]) texts |> snd)

/// A greedy text's tokens and what the model says of them, and of how many ids of the prompt it had a cache.
let private told (events: seq<GenerationEvent>) =
    let made = Generation.result events
    (made.TokenIds, made.LogProbs), made.ReusedIds

let private worst (a: float[][]) (b: float[][]) =
    let size = b |> Seq.collect (Seq.map abs) |> Seq.max
    (Seq.map2 (Seq.map2 (fun x y -> abs (x - y)) >> fun row -> row) a b
     |> Seq.collect id
     |> Seq.max)
    / size

[<Tests>]
let tests =
    testSequenced
    <| testList "prefill" [
        testPropertyWithConfig
            (Tiny.settings 20)
            "a long prompt of 16-bit weights is rounded, and no further off than that"
        <| fun (seed: int) (PositiveInt more) ->
            for dtype in [ Dtype.F16; Dtype.BF16 ] do
                use weights = weights seed dtype
                let prompt = promptOf seed (24 + more * 11 % 500)
                let exact = read weights Prefill.Exact 3 [ prompt ]
                let auto = read weights Prefill.Auto 3 [ prompt ]
                Expect.isLessThan (worst auto exact) 0.05 $"{dtype}"

                if MatrixUnit.IsThere then
                    Expect.notEqual auto exact "the unit was used"
                else
                    Expect.equal auto exact "there is no unit"

        testPropertyWithConfig (Tiny.settings 10) "short prompts, and float32's of any length, are exact"
        <| fun (seed: int) ->
            use narrow = weights seed Dtype.BF16
            use wide = weights seed Dtype.F32

            for weights, length in [ narrow, 16; wide, 300 ] do
                let prompt = promptOf seed length
                let exact = read weights Prefill.Exact 3 [ prompt ]
                Expect.equal (read weights Prefill.Auto 3 [ prompt ]) exact "bit for bit"

        testPropertyWithConfig (Tiny.settings 10) "what follows a prompt is exact, however it is cut"
        <| fun (seed: int) ->
            use weights = weights seed Dtype.BF16
            let prompt, rest = promptOf seed 50, promptOf (seed + 1) 60
            let whole = read weights Prefill.Auto 1 [ prompt; rest ]
            let cut = read weights Prefill.Auto 1 (prompt :: List.ofArray (Array.chunkBySize 7 rest))
            Expect.equal cut whole "bit for bit"

        testPropertyWithConfig (Tiny.settings 15) "a prompt whose beginning is known is read as it is alone"
        <| fun (seed: int) (PositiveInt shared) (PositiveInt rest) (kv: bool) ->
            use weights = { weights seed Dtype.BF16 with Kv = if kv then Some KvFormat.Q8 else None }

            let exit = ExitLayer.TryCreate(4, 2) |> Check.getOrRaise
            // Both long enough for the unit, and some longer than a piece.
            let shared = promptOf seed (17 + shared * 17 % 300)
            let prompt salt = Array.append shared (promptOf (seed + salt) (17 + rest * 23 % 320))
            use prefixes = new PrefixCache(weights, 4, 1L <<< 30)

            for strategy in [ Strategy.Autoregressive; Strategy.SelfSpeculative(exit, 3) ] do
                let options = { GenerationOptions.greedy strategy 8 with LogProbs = Some 2 }

                let over prompt = pulls prefixes weights options prompt |> Seq.concat |> told

                let alone prompt =
                    Generation.run weights None options prompt |> Check.getOrRaise |> told |> fst

                over (prompt 1) |> ignore

                for salt in [ 2; 3 ] do
                    let text, reused = over (prompt salt)
                    Expect.isGreaterThanOrEqual reused shared.Length "the beginning is known"
                    Expect.equal text (alone (prompt salt)) "bit for bit"
                    let again, reused = over (prompt salt)
                    Expect.equal reused (prompt salt).Length "all of it is known"
                    Expect.equal again text "the same request, the same words"

        testCase
            "the certificate holds over long prompts, bit for bit, and says how they were read"
            (fun () ->
                for dtype in [ Dtype.F16; Dtype.BF16 ] do
                    for prefill in Prefill.all do
                        use weights = { weights 7 dtype with Prefill = prefill }
                        let checkpoint = Checkpoint.ofWeights "wide" weights None

                        let report =
                            Certify.run checkpoint {
                                Certify.options with
                                    Prompts = [| promptOf 1 40; promptOf 2 300 |]
                                    MaxNewTokens = 16
                            }

                        let test = report.Tests |> List.find (fun test -> test.Name = "T3")
                        Expect.equal report.Violation 0 $"{dtype}, {report.Prefill}: {report.Tests}"
                        Expect.equal (test.Exact, test.Checks > 0) (test.Checks, true) "bit for bit"
                        Expect.equal report.Prefill (Prefill.name prefill) "how")

        testCase "a cancelled prompt ends, and the next one is read" (fun () ->
            use weights = weights 3 Dtype.BF16
            use source = new Threading.CancellationTokenSource()
            source.Cancel()
            let cache = Cache.create weights 2 600
            use _storage = cache.Slab :> IDisposable

            Expect.throwsT<OperationCanceledException>
                (fun () ->
                    Model.forward weights 1 (promptOf 3 500) { cache with Cancelled = source.Token }
                    |> ignore)
                "cancelled"

            let prompt = promptOf 4 100
            Expect.equal
                (read weights Prefill.Auto 2 [ prompt ])
                (read weights Prefill.Auto 2 [ prompt ])
                "the same")
    ]
