module LayerSkip.Tests.CancellationTests

open System
open System.Threading
open System.Threading.Tasks
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Kernels
open LayerSkip.Tests.Tiny

let private layers, positions = 4, 4000

let private model = {
    Config = {
        Tiny.config 24 layers 4 2 true with
            Hidden = 128
            Intermediate = 256
            HeadDim = 32
            Context = positions + 8
    }
    Seed = 3L
}

let private prompt = Array.init positions (fun i -> i % 24)

/// How many keys of 4000 positions and 4 layers are written.
let private written (keys: Tensor[]) =
    keys
    |> Array.sumBy (fun keys ->
        Scope.free (fun () -> (keys.select(3L, 0L).select(1L, 0L).isnan().logical_not().sum().item<int64>())))

[<Tests>]
let tests =
    testSequenced
    <| testList "cancelling" [
        testCase "ends a pass over a long prompt within a piece of one layer" (fun () ->
            use weights = Tiny.weights Dtype.BF16 model

            Scope.free (fun () ->
                let config = model.Config
                let rows = int64 positions
                let blank (size: int64[]) = torch.full (size, nan.ToScalar(), torch.ScalarType.Float32)

                let perLayer () =
                    Array.init layers (fun _ ->
                        blank [| 1L; int64 config.KvHeads; rows; int64 config.HeadDim |])

                let keys = perLayer ()
                let states () = torch.zeros [| 1L; rows; int64 config.Hidden |]
                let rope = Rope.table config positions torch.ScalarType.Float32 torch.CPU
                use kernels = Sequence.create weights

                kernels.Use {
                    Room = positions
                    Keys = keys
                    Values = perLayer ()
                    Exits = states ()
                    Lasts = states ()
                    Kept = torch.zeros [| 1L; 0L; int64 config.Hidden |]
                    KeptLayers = [||]
                    Rope = rope
                }

                kernels.Embed(prompt, 0)
                use cancelled = new CancellationTokenSource()

                let reading =
                    Task.Run(fun () ->
                        kernels.Run(
                            StatePlace.Exit,
                            0,
                            layers,
                            0,
                            positions,
                            Prefill.Auto,
                            cancelled.Token
                        ))

                // The first piece has gone through two layers.
                while written keys[1..1] = 0L && not reading.IsCompleted do
                    ()

                cancelled.Cancel()
                let before = written keys
                Expect.throwsT<OperationCanceledException>
                    (fun () -> reading.GetAwaiter().GetResult())
                    "it ends"
                let after = written keys
                Expect.isLessThanOrEqual (after - before) (int64 DecoderPass.PieceRows) "a piece of a layer"
                Expect.isLessThan after (int64 (layers * positions) / 2L) "and no more"))

        for dtype in [ Dtype.BF16; Dtype.F64 ] do
            testCase $"{dtype}: a token that is cancelled before the first pull computes nothing" (fun () ->
                use weights = Tiny.weights dtype model
                use cancelled = new CancellationTokenSource()

                for strategy in [ Strategy.Autoregressive; Strategy.SelfSpeculative(exit layers 2, 3) ] do
                    let start =
                        Generation.prepare weights None (options strategy 8) prompt |> Check.getOrRaise
                    cancelled.Cancel()
                    let events = start cancelled.Token

                    Expect.throwsT<OperationCanceledException>
                        (fun () -> Seq.tryHead events |> ignore)
                        "the first pull"

                    // The same weights serve the next text.
                    Expect.isSome (start CancellationToken.None |> Seq.tryHead) "a token")

            testCase $"{dtype}: a cancellation between two tokens ends the next pull" (fun () ->
                use weights = Tiny.weights dtype model
                use cancelled = new CancellationTokenSource()
                let start =
                    Generation.prepare weights None (options Strategy.Autoregressive 8) [| 1; 2 |]
                    |> Check.getOrRaise
                use events = (start cancelled.Token).GetEnumerator()
                Expect.isTrue (events.MoveNext()) "a token"
                cancelled.Cancel()
                Expect.throwsT<OperationCanceledException> (fun () -> events.MoveNext() |> ignore) "the next")
    ]
