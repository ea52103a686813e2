namespace LayerSkip

open System.Runtime.InteropServices
open System.Runtime.Intrinsics.X86
open LayerSkip.Kernels

/// Whether bfloat16 pays on this processor.
[<RequireQualifiedAccess>]
module Bfloat16 =
    // CPUID, leaf 7 (Intel SDM, volume 2A): AVX512-BF16 is bit 5 of EAX in subleaf 1, AMX-BF16 bit 22 of EDX in subleaf 0.
    // .NET has no name for either; that it runs AVX-512 says that the system keeps such registers.
    let private multiplies () =
        let bit (index: int) (word: int) = (word >>> index) &&& 1 = 1

        if not (X86Base.IsSupported && Avx512BW.IsSupported) then
            false
        else
            let struct (subleaves, _, _, features) = X86Base.CpuId(7, 0)
            let struct (more, _, _, _) = X86Base.CpuId(7, 1)
            bit 22 features || (subleaves >= 1 && bit 5 more)

    /// Whether libtorch's products of bfloat16 run several times as fast here as those of float32: where the processor
    /// multiplies bfloat16 in one instruction. Elsewhere they are slower. By the processor's word and not by a clock, so
    /// that a run that goes on here computes as it did.
    let isFast: bool = multiplies ()

    /// Lends the kernels libtorch's products for one thread (aten/src/ATen/native/CPUBlas.h), where they are fast and this
    /// libtorch has them; their types are in their names.
    let internal lend (libtorch: nativeint) : unit =
        let mutable product, release = 0n, 0n

        if
            isFast
            && NativeLibrary.TryGetExport(
                libtorch,
                "_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb",
                &product
            )
            && NativeLibrary.TryGetExport(libtorch, "_ZN2at6native7cpublas14brgemm_releaseEb", &release)
        then
            MatrixUnit.Use(product, release)
