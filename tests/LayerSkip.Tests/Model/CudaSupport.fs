/// Tests that need a GPU: skipped, visibly, where there is none.
module LayerSkip.Tests.CudaSupport

open Expecto
open LayerSkip
open LayerSkip.Tests.Tiny

/// Why no GPU can be used here.
let private missing =
    lazy
        (match Backend.tryDevice Device.Cuda with
         | Ok _ -> None
         | Error faults -> Some(LayerSkipError.summary faults))

let cudaTest name body =
    testCase name (fun () ->
        match missing.Value with
        | None -> body ()
        | Some why -> skiptest why)

/// FsCheck's cases, one after another.
let cudaProperty name count (body: 'T -> unit) =
    cudaTest name (fun () ->
        let config =
            FsCheck.Config.QuickThrowOnFailure.WithMaxTest(count).WithArbitrary [ typeof<Arbitraries> ]
        FsCheck.Check.One(config, body))

/// A tiny model's weights on a device.
let on device dtype (model: Model) = Weights.random model.Seed 0.8 dtype device model.Config
