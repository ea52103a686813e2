module LayerSkip.Tests.ScopeTests

open System
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.TensorSupport

Backend.ensure ()

[<Tests>]
let tests =
    testSequenced
    <| testList "scopes" [
        testCase
            "inference frees what was made in it, and remembers for gradients only once it has ended"
            (fun () ->
                let before = liveTensors ()
                use leaf = (torch.ones 2L).requires_grad_ true

                let inside =
                    use _inference = Scope.inference ()
                    (leaf * leaf).requires_grad

                use after = leaf * leaf
                Expect.isFalse inside "inside"
                Expect.isTrue after.requires_grad "after"
                Expect.equal (torch.Tensor.TotalCount - before) 2L "the leaf and the last product live")

        testCase "tensors are released whether a scope holds them or none" (fun () ->
            let before = liveTensors ()
            use _scope = Scope.start ()
            let held, owned = torch.ones 2L, torch.ones 3L
            Scope.own [ owned ]
            Scope.release [ held; owned ]
            Expect.equal torch.Tensor.TotalCount before "live tensors")

        testCase "what goes with the weights stands under their names, row for row" (fun () ->
            for tied in [ true; false ] do
                let config = Tiny.config 24 3 4 2 tied
                use weights = Tiny.weights Dtype.F32 { Config = config; Seed = 5L }
                use _scope = Scope.start ()
                let doubled = Weights.tensors weights |> Array.map (fun tensor -> tensor.add tensor)
                let pairs = List.zip (Weights.named weights) (Weights.namedLike config doubled)

                Expect.isNonEmpty pairs "weights"

                for (name, weight), (likeName, like) in pairs do
                    Expect.equal likeName name "name"
                    Expect.equal (Tensors.toFloats like) (Tensors.toFloats (weight.add weight)) name)

        testCase "a failure disposes what it leaves without an owner, a success does not" (fun () ->
            let disposals = ref 0

            let owned = {
                new IDisposable with
                    member _.Dispose() = disposals.Value <- disposals.Value + 1
            }

            Expect.equal (Ok 1 |> Check.orDispose owned) (Ok 1) "a success"
            Expect.equal disposals.Value 0 "after it"
            let failed: Result<int, _> = Error [ LayerSkipError.EmptyPrompt ]
            Expect.equal (failed |> Check.orDispose owned) failed "a failure"
            Expect.equal disposals.Value 1 "after that")
    ]
