module LayerSkip.Tests.MappedFileTests

open System
open Expecto
open LayerSkip

let private dispose (share: MappedFile) = (share :> IDisposable).Dispose()

[<Tests>]
let tests =
    testList "mapped files" [
        testCase "who disposes a share twice takes nobody else's" (fun () ->
            let own = MappedFile.Zeros 4096L
            let other = own.Share()
            dispose own
            dispose own
            use more = other.Share()
            Expect.equal more.Address other.Address "the same memory"
            let bytes = RawMemory.span 0L 4096 { Address = other.Address; Length = 4096L }
            Expect.equal (bytes.ToArray()) (Array.zeroCreate 4096) "and it is there"
            dispose other)

        testCase "nobody shares what he has disposed" (fun () ->
            let own = MappedFile.Zeros 4096L
            dispose own
            Expect.throwsT<ObjectDisposedException> (fun () -> own.Share() |> ignore) "disposed")
    ]
