module LayerSkip.Tests.OverheadTests

open System
open System.IO
open System.Threading
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Tiny

let private filtered = Sampling.create 1.0 0 1.0 |> Check.getOrRaise

/// A cache with memory for so many positions, made and freed.
let private makeCache weights positions =
    let cache = Cache.create weights 1 positions
    use slab = cache.Slab
    slab.ClaimFor(positions, 0, cache.Early, cache.Late) |> ignore

/// How many tensors the calling thread makes.
let private made (body: unit -> unit) : int64 =
    let created () =
        let tensors = DisposeScopeManager.Statistics.TensorStatistics
        tensors.CreatedInScopeCount + tensors.CreatedOutsideScopeCount

    let before = created ()
    body ()
    created () - before

let private tasks () = Directory.GetDirectories "/proc/self/task" |> Set.ofArray

/// Nanoseconds that threads have run for, once all is quiet again.
let private ran (tasks: string seq) =
    Thread.Sleep 100
    tasks
    |> Seq.sumBy (fun task -> File.ReadAllText(Path.Combine(task, "schedstat")).Split(' ')[0] |> int64)

/// Calls `body` with a measure of how long the threads ran that libtorch keeps for the caller.
let private besideLibtorch (body: ((unit -> unit) -> int64) -> unit) =
    // On a thread of its own, for which libtorch starts new ones.
    let fault = ref None

    let watch () =
        try
            let before = tasks ()
            torch.set_num_threads 2
            torch.zeros([| 1_000_000L |]).Dispose()
            let helpers = tasks () - before

            body (fun act ->
                let before = ran helpers
                act ()
                ran helpers - before)
        with e ->
            fault.Value <- Some e

    let thread = Thread watch
    thread.Start()
    thread.Join()
    fault.Value |> Option.iter raise

[<Tests>]
let tests =
    testSequenced
    <| testList "overhead" [
        for dtype in [ Dtype.F32; Dtype.F16; Dtype.BF16 ] do
            testCase
                $"{dtype}: decoding by the kernels makes the tensors of its cache and no other"
                (fun () ->
                    use weights = Tiny.weights dtype { Config = Tiny.config 24 3 4 2 true; Seed = 4L }

                    // The first sequence makes the tables of angles, for all of them.
                    makeCache weights 60
                    let cache = made (fun () -> makeCache weights 60)

                    for strategy in
                        [
                            Strategy.Autoregressive
                            Strategy.EarlyExit(exit 3 1)
                            Strategy.SelfSpeculative(exit 3 1, 4)
                        ] do
                        for sampling in [ Sampling.Greedy; filtered ] do
                            let decoding =
                                made (fun () ->
                                    Generation.complete
                                        weights
                                        None
                                        { options strategy 50 with Sampling = sampling }
                                        [| 1; 2; 3 |]
                                    |> Check.getOrRaise
                                    |> ignore)

                            Expect.equal decoding cache $"{strategy}, {sampling}")

        testCase
            "neither a new cache nor sampling wakes libtorch's threads, which would spin for milliseconds"
            (fun () ->
                if not (OperatingSystem.IsLinux()) then
                    skiptest "the threads are told apart by Linux's /proc"

                let model = {
                    Config = { Tiny.config 40000 2 4 2 true with HeadDim = 32; Context = 2100 }
                    Seed = 4L
                }

                use weights = Tiny.weights Dtype.BF16 model

                try
                    besideLibtorch (fun helpersRan ->
                        Expect.isGreaterThan
                            (helpersRan (fun () -> torch.zeros([| 1_000_000L |]).Dispose()))
                            0L
                            "what the measure is to see"

                        Expect.equal (helpersRan (fun () -> makeCache weights 1000)) 0L "a cache"
                        Expect.equal (helpersRan (fun () -> makeCache weights 2000)) 0L "more angles"

                        let sample () =
                            Generation.complete
                                weights
                                None
                                {
                                    options (Strategy.SelfSpeculative(exit 2 1, 4)) 9 with
                                        Sampling = filtered
                                }
                                [| 1; 2; 3 |]
                            |> Check.getOrRaise
                            |> ignore

                        Expect.equal (helpersRan sample) 0L "sampling")
                finally
                    torch.set_num_threads 1)
    ]
